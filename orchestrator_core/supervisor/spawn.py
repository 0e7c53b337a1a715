"""
The start of the agent: fork, prepare the child, exec, and report a failure.

The agent gets standard input from a file, output and error into the log, a new session,
directory and environment of its own, the deployer's umask, priority and limits, default signal
handlers, and no other descriptor. The
log is the agent's output, not a copy of it: no line is lost, whichever process dies.
"""

from __future__ import annotations

import errno
import posix

from orchestrator_core.supervisor import process_attributes, signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator_core.supervisor.launch import Launch

_IN_CGROUP = b"c"  #: The child has entered its cgroup.
_NOT_SET = b"-"  #: The system refused attributes; their names follow, with ";" between them.
_FAILED = b"!"  #: The child could not become the agent; the reason follows.
_REPORT_FD = 3


class SpawnResult:
    """
    The result of a start.

    Attributes:
        pid: The unreaped child; None if the fork failed.
        in_cgroup: Whether the child entered its cgroup before it ran anything.
        not_set: The attributes that the system refused to set.
        refused: Why the child is not the agent; None if it is.
    """

    def __init__(self, pid: int | None, report: bytes) -> None:
        self.pid = pid
        self.in_cgroup = report.startswith(_IN_CGROUP)
        facts, failed, why = report.partition(_FAILED)
        self.not_set = [name.decode() for name in facts.partition(_NOT_SET)[2].split(b";") if name]
        self.refused = why.decode(errors="replace") if failed else None


def start(launch: Launch) -> SpawnResult:
    """Start the agent, and wait until it runs or has failed."""
    read_fd, write_fd = posix.pipe()
    try:
        pid = posix.fork()
    except OSError as error:
        posix.close(read_fd)
        posix.close(write_fd)
        return SpawnResult(None, _FAILED + f"no process can be started: {error.strerror}".encode())
    if pid == 0:
        _child_main(launch, write_fd)
    posix.close(write_fd)
    with open(read_fd, "rb", buffering=0) as report:
        return SpawnResult(pid, report.readall())  # Ends when exec closes the child's end.


def _child_main(launch: Launch, write_fd: int) -> None:
    try:
        signals.reset_handlers()  # First: the handlers write to a descriptor that is closed next.
        _close_other_fds(write_fd)
        posix.setsid()
        _join_cgroup(launch.cgroup)
        _redirect_stdio(launch)
        _set_attributes(launch)
        _exec(launch.argv, launch.env)
    except _SpawnError as error:
        _report_failure(str(error))
    except BaseException as error:  # noqa: BLE001 - the child must never run the supervisor's code
        _report_failure(f"the agent could not be started: {error!r}")
    finally:
        posix._exit(127)  # noqa: SLF001 - a public function


def _report_failure(why: str) -> None:
    line = " ".join(why.split())
    posix.write(_REPORT_FD, _FAILED + line.encode(errors="replace")[:4000])


class _SpawnError(Exception):
    """The operating system refused something that the agent needs."""

    def __init__(self, what: str, error: OSError) -> None:
        super().__init__(f"{what}: {error.strerror}")


def _close_other_fds(write_fd: int) -> None:
    """Close every descriptor but 0, 1, 2 and the report's, which exec closes."""
    if write_fd != _REPORT_FD:
        posix.dup2(write_fd, _REPORT_FD, inheritable=False)
    posix.closerange(_REPORT_FD + 1, posix.sysconf("SC_OPEN_MAX"))


def _join_cgroup(cgroup: str | None) -> None:
    if cgroup is None:
        return
    try:
        fd = posix.open(f"{cgroup}/cgroup.procs", posix.O_WRONLY | posix.O_CLOEXEC)
        posix.write(fd, b"0")
        posix.close(fd)
    except OSError:
        return  # The agent runs without a cgroup, below the subreaper.
    posix.write(_REPORT_FD, _IN_CGROUP)


def _redirect_stdio(launch: Launch) -> None:
    """Connect descriptors 0, 1 and 2, and change to the agent's directory."""
    stdin = _open("standard input", launch.stdin, posix.O_RDONLY)
    log = _open("log", launch.log, posix.O_WRONLY | posix.O_APPEND | posix.O_NOFOLLOW)
    posix.dup2(stdin, 0)
    posix.dup2(log, 1)
    posix.dup2(log, 2)
    try:
        posix.chdir(launch.cwd)
    except OSError as error:
        raise _SpawnError(f"the working directory {launch.cwd!r} cannot be used", error) from None


def _set_attributes(launch: Launch) -> None:
    refused = process_attributes.apply(launch.attributes)
    if refused:
        posix.write(_REPORT_FD, _NOT_SET + ";".join(refused).encode())


def _open(what: str, path: str, flags: int) -> int:
    try:
        return posix.open(path, flags | posix.O_CLOEXEC | posix.O_NOCTTY)
    except OSError as error:
        raise _SpawnError(f"the {what} {path!r} cannot be opened", error) from None


def _exec(argv: list[str], env: dict[str, str]) -> None:
    """Run *argv* as a shell would find it, by the agent's own PATH."""
    reason = OSError(errno.ENOENT, posix.strerror(errno.ENOENT))
    for path in _candidates(argv[0], env.get("PATH", "/bin:/usr/bin")):
        try:
            posix.execve(path, argv, env)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            reason = error
            if error.errno != errno.EACCES:
                break  # The program exists. A later directory would have another program.
    raise _SpawnError(f"the command {argv[0]!r} cannot be run", reason)


def _candidates(name: str, path: str) -> Iterator[str]:
    if "/" in name:
        yield name
    else:
        yield from (f"{directory or '.'}/{name}" for directory in path.split(":"))
