"""
The agent's start: fork, a clean process, exec, and an answer.

What the agent gets is all there is to get: standard input from a file, output
and error into the log, its own session, directory and environment, every signal
at its default, and no other descriptor. The log *is* its output, not a copy of
it: whoever else dies, no line is lost.
"""

from __future__ import annotations

import errno
import os

from orchestrator_core.supervisor import signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator_core.supervisor.launch import Launch

_IN_CGROUP = b"c"  #: The new process has entered its cgroup.
_REFUSED = b"!"  #: It could not become the agent; the reason follows.
_ANSWER_FD = 3


class SpawnResult:
    """
    What became of a start.

    Attributes:
        pid: The child, ours to reap; None if there is not even that.
        in_cgroup: Whether it entered its cgroup before it ran anything.
        refused: Why it is not the agent; None if it is.
    """

    def __init__(self, pid: int | None, answer: bytes) -> None:
        self.pid = pid
        self.in_cgroup = answer.startswith(_IN_CGROUP)
        _, no, why = answer.partition(_REFUSED)
        self.refused = why.decode(errors="replace") if no else None


def start(launch: Launch) -> SpawnResult:
    """Start the agent and wait until it runs, or could not."""
    answer, tell = os.pipe()
    try:
        pid = os.fork()
    except OSError as error:
        os.close(answer)
        os.close(tell)
        return SpawnResult(None, _REFUSED + f"no process can be started: {error.strerror}".encode())
    if pid == 0:
        _child_main(launch, tell)
    os.close(tell)
    with open(answer, "rb", buffering=0) as file:
        return SpawnResult(pid, file.readall())  # Ends when exec closes the other end.


def _child_main(launch: Launch, tell: int) -> None:
    try:
        signals.reset_handlers()  # First: our handlers write to a descriptor that is closed next.
        _close_other_fds(tell)
        os.setsid()
        _join_cgroup(launch.cgroup)
        _redirect_stdio(launch)
        _exec(launch.argv, launch.env)
    except _SpawnError as refused:
        _report_failure(str(refused))
    except BaseException as error:  # noqa: BLE001 - the child must not live on as a second us
        _report_failure(f"the agent could not be started: {error!r}")
    finally:
        os._exit(127)


def _report_failure(why: str) -> None:
    line = " ".join(why.split())
    os.write(_ANSWER_FD, _REFUSED + line.encode(errors="replace")[:4000])


class _SpawnError(Exception):
    """The operating system refused something the agent needs."""

    def __init__(self, what: str, error: OSError) -> None:
        super().__init__(f"{what}: {error.strerror}")


def _close_other_fds(tell: int) -> None:
    """Close every descriptor but 0, 1, 2 and the one to answer on, which exec closes."""
    if tell != _ANSWER_FD:
        os.dup2(tell, _ANSWER_FD, inheritable=False)
    os.closerange(_ANSWER_FD + 1, os.sysconf("SC_OPEN_MAX"))


def _join_cgroup(cgroup: str | None) -> None:
    if cgroup is None:
        return
    try:
        door = os.open(f"{cgroup}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
        os.write(door, b"0")
        os.close(door)
    except OSError:
        return  # It runs without one, below a subreaper as ever.
    os.write(_ANSWER_FD, _IN_CGROUP)


def _redirect_stdio(launch: Launch) -> None:
    """Connect 0, 1 and 2, and go where the agent runs."""
    stdin = _opened("standard input", launch.stdin, os.O_RDONLY)
    log = _opened("log", launch.log, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW)
    os.dup2(stdin, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    try:
        os.chdir(launch.cwd)
    except OSError as error:
        raise _SpawnError(f"the working directory {launch.cwd!r} cannot be used", error) from None


def _opened(what: str, path: str, flags: int) -> int:
    try:
        return os.open(path, flags | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError as error:
        raise _SpawnError(f"the {what} {path!r} cannot be opened", error) from None


def _exec(argv: list[str], env: dict[str, str]) -> None:
    """Run *argv* as a shell would find it, by the agent's own PATH."""
    reason = OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    for path in _candidates(argv[0], env.get("PATH", os.defpath)):
        try:
            os.execve(path, argv, env)  # noqa: S606 - no shell is the point
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            reason = error
            if error.errno != errno.EACCES:
                break  # It is there; looking further would run another program.
    raise _SpawnError(f"the command {argv[0]!r} cannot be run", reason)


def _candidates(name: str, path: str) -> Iterator[str]:
    if "/" in name:
        yield name
    else:
        yield from (os.path.join(where or ".", name) for where in path.split(os.pathsep))
