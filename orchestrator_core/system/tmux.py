"""
The terminal protocol, implemented with real tmux.

Every question is one ``tmux`` process with an exact target, a time limit and a clean
environment. tmux exits with 1 whether there is no server, no such session or a failure. Only
its messages tell them apart; :class:`TmuxError` classifies them.

This is the only module that imports libtmux. It uses libtmux's server and its ``cmd``, never
its listings: those split on a character that an agent can put into its own title, and then
fail for every session of the server.
"""

from __future__ import annotations

import contextlib
import enum
import io
import os
import re
import shutil
import stat
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, Final

from orchestrator_core.exceptions import (
    InvalidId,
    InvalidInput,
    SessionExists,
    TerminalError,
    TerminalUnavailable,
    UntrustedSocket,
)
from orchestrator_core.supervisor.platform import LONGEST_POLL_S
from orchestrator_core.system import exit_status, one_timeout
from orchestrator_core.system.names import check_name, check_owner
from orchestrator_core.system.paths import SOCKET_PATH_MAX, why_replaceable
from orchestrator_core.system.presence import Presence
from orchestrator_core.system.terminal import Session, SessionState
from orchestrator_core.system.tmux_commands import (
    LISTING,
    OWNER_OPTION,
    STAY,
    kill_if,
    leave_after,
    new_session,
    start_server,
)
from orchestrator_core.system.unix_socket import is_out_of_sight

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# libtmux reads the encoding of sys.stdout at its import. A daemon may have no sys.stdout.
with contextlib.redirect_stdout(sys.stdout or io.StringIO()):
    import libtmux
    from libtmux.common import tmux_cmd

_MAX_STARTS = 10  #: Tries for a session whose server exits.

MINIMUM_VERSION: Final = (3, 2)
"""The first tmux that has both ``-N`` and ``new-session -e``."""

_LISTED = re.compile(
    r"(?P<server>\d+):%(?P<pane>\d+):(?P<pid>\d+):(?P<name>[^:]+):(?P<owner>.*)", re.DOTALL
)

# A server that runs out of descriptors hangs, and so does every client of it. A limit below
# 1000 is raised. The soft limits of time, file size and memory are those of the process that
# happens to start the server; they must not end it. "$0" and "$@" are the tmux command.
_RAISE_LIMITS = """\
case $(ulimit -S -n) in ?|??|???)
  ulimit -S -n 4096 2>/dev/null || ulimit -S -n "$(ulimit -H -n)" 2>/dev/null
esac
for limit in t f d v; do ulimit -S -$limit "$(ulimit -H -$limit)" 2>/dev/null; done
exec "$0" "$@"
"""


class TmuxTerminal:
    """
    Sessions on one tmux server; see :class:`~orchestrator_core.system.terminal.Terminal`.

    With *socket_path* the server is private. It is started when first needed, from ``/``,
    without a configuration file, and with only those environment variables that tmux needs.
    It exits *linger_s* after the end of its last session.
    Without *socket_path* it is the user's default server, where only sessions of this class
    are changed. *timeout_s* bounds each call of this class as a whole. Thread-safe.
    """

    def __init__(
        self,
        socket_path: str | os.PathLike[str] | None = None,
        *,
        timeout_s: float = 10.0,
        linger_s: float = 60.0,
        tmux_bin: str | os.PathLike[str] | None = None,
    ) -> None:
        self.socket_path = None if socket_path is None else os.path.abspath(socket_path)  # noqa: PTH100 - never resolved: the path is the identity
        if self.socket_path and len(os.fsencode(self.socket_path)) > SOCKET_PATH_MAX:
            raise InvalidInput(
                f"tmux socket path {self.socket_path!r} is longer than {SOCKET_PATH_MAX} bytes",
                hint="a Unix socket cannot have a longer path; choose a shorter one",
            )
        self.timeout_s = timeout_s
        self.linger_s = linger_s
        self._given_bin = None if tmux_bin is None else os.fspath(tmux_bin)
        self._version = ""

    def check(self) -> str:
        """Return tmux's name and version; the first call runs ``tmux -V``. See the protocol."""
        if not self._version:
            reply = self._server().run("-V", bare=True)
            self._version = _check_version(" ".join(reply.stdout), self.binary())
        return self._version

    def binary(self) -> str:
        """
        Return the path of the tmux program.

        Raises:
            TerminalUnavailable: There is none.
        """
        found = self._given_bin or shutil.which("tmux", path=_search_path())
        if not found:
            raise TerminalUnavailable(f"there is no tmux in {_search_path()}")
        return found

    def start(self, name: str, *, owner: str, argv: Sequence[str]) -> Session:
        """Start a session with one tmux process; with three if no server runs yet."""
        command = new_session(check_name(name), check_owner(owner), argv)
        if self.socket_path is not None:
            _check_in_sight(self.socket_path)
            command = (*command, ";", *STAY)
        server = self._server()
        reply = self._run_on_a_server(server, command)
        created = _parse(reply.stdout)
        if reply.returncode == 0 and created:
            return Session(name, owner, created[0].pane_pid, created[0].server_pid)
        if TmuxError.classify(reply) is TmuxError.DUPLICATE:
            raise SessionExists(f"tmux session {name!r} already exists")
        if created:  # The session exists, but its owner could not be set.
            is_created = f"#{{==:#{{pane_pid}},{created[0].pane_pid}}}"
            server.run_again_if_lost(*kill_if(name, is_created))
        raise self._terminal_error(f"start session {name!r}", reply)

    def _run_on_a_server(self, server: _Server, command: tuple[str, ...]) -> tmux_cmd:
        """
        Run *command*, and start a server if none runs; concurrent calls result in one server.

        A server without sessions may exit at any instant, also between its start and *command*.
        No session is lost by that, and a new server is started.
        """
        for _ in range(_MAX_STARTS):
            reply = server.cmd(*command)
            error = TmuxError.classify(reply)
            if error is TmuxError.NO_SERVER and self.socket_path is None:
                return server.run(*command, may_start=True)
            if error is TmuxError.NO_SERVER:
                self._start_server(server)
            elif error is not TmuxError.LOST:
                break
        return reply

    def _start_server(self, server: _Server) -> None:
        """
        Start a private server, by a separate command.

        ``ps`` shows the first command line of a server as long as it lives.
        """
        reply = server.run(*start_server(self.linger_s), may_start=True)
        is_gone = TmuxError.classify(reply) in {TmuxError.LOST, TmuxError.NO_SERVER}
        if (reply.returncode or reply.stderr) and not is_gone:
            raise self._terminal_error("start a server", reply)

    def inspect(self, name: str, *, owner: str) -> SessionState:
        """Return whether the session exists and has this *owner*, by one tmux process."""
        try:
            sessions = self._list("-s", "-t", f"={check_name(name)}:")
        except (InvalidId, TerminalError) as error:
            return SessionState(Presence.UNKNOWN, why=str(error))
        found = next((session for session in sessions if session.name == name), None)
        if found is None:
            return SessionState(Presence.ABSENT)
        return SessionState(Presence.OURS if found.owner == owner else Presence.FOREIGN, found)

    def kill(self, name: str, *, owner: str) -> Presence:
        """Kill the session if it has this *owner*; the server itself compares and kills."""
        is_owned = f"#{{==:#{{{OWNER_OPTION}}},{check_owner(owner)}}}"
        command = kill_if(check_name(name), is_owned)
        if self.socket_path is not None:
            command = (*leave_after(self.linger_s), ";", *command)
        reply = self.run(*command)
        with contextlib.suppress(ValueError, IndexError):
            return Presence(reply.stdout[-1])
        if TmuxError.classify(reply) in ABSENT_ERRORS:
            return Presence.ABSENT
        raise self._terminal_error(f"end session {name!r}", reply)

    def sessions(self) -> tuple[Session, ...]:
        """Return all sessions, by one tmux process; none if no server runs."""
        return self._list("-a")

    def _list(self, *which: str) -> tuple[Session, ...]:
        reply = self.run("list-panes", *which, "-F", LISTING)
        if reply.returncode == 0:
            return _parse(reply.stdout)
        if TmuxError.classify(reply) in ABSENT_ERRORS:
            return ()
        raise self._terminal_error("list sessions", reply)

    def run(self, *command: str) -> tmux_cmd:
        """
        Return the server's reply to one command. The command does not start a server.

        Raises:
            TerminalTimeout: No answer in time; the state is unknown.
            TerminalUnavailable: There is no usable tmux.
        """
        return self._server().run_again_if_lost(*command)

    def _terminal_error(self, action: str, reply: tmux_cmd) -> TerminalError:
        """Return the error for a reply that no caller has expected."""
        self.check()  # An old tmux refuses new options: that error explains more.
        message = "; ".join(reply.stderr) or f"exit code {reply.returncode}, and no message"
        return TerminalError(
            f"tmux ({self._server_name()}) did not {action}: {message}",
            hint="command too long: pass large values in files" if "too long" in message else "",
        )

    def _server(self) -> _Server:
        """
        Return a server handle for one operation; its time limit starts now.

        Raises:
            UntrustedSocket: Another user may answer; nothing was asked.
        """
        if self.socket_path is not None:
            _check_socket(self.socket_path)
        return _Server(
            self.socket_path,
            tmux_bin=self.binary(),
            timeout_s=self.timeout_s,
            name=self._server_name(),
        )

    def _server_name(self) -> str:
        return self.socket_path or "the default server"


class _Server(libtmux.Server):
    """A libtmux server for one operation, with a clean environment and a time limit."""

    def __init__(
        self, socket_path: str | None, *, tmux_bin: str, timeout_s: float, name: str
    ) -> None:
        super().__init__(
            socket_path=socket_path,
            config_file=None if socket_path is None else os.devnull,
            tmux_bin=tmux_bin,
        )
        self._binary = tmux_bin
        self._name = name
        self._timeout_s = timeout_s
        self._deadline = time.monotonic() + timeout_s

    def cmd(self, cmd: str, *args: Any, target: str | int | None = None) -> tmux_cmd:  # noqa: ANN401 - libtmux's own signature
        """Run one tmux command on this server, if it runs."""
        target_args = () if target is None else ("-t", str(target))
        return self.run(cmd, *target_args, *map(str, args))

    def run_again_if_lost(self, *command: str) -> tmux_cmd:
        """Run one command; run it again if the server exited during the first run."""
        reply = self.cmd(*command)
        return self.cmd(*command) if TmuxError.classify(reply) is TmuxError.LOST else reply

    def run(self, *command: str, may_start: bool = False, bare: bool = False) -> tmux_cmd:
        """Run tmux. *may_start* lets it start a server; *bare* runs it without server options."""
        if not bare:  # A bare call asks no server.
            one_timeout.check(self._name)
        argv = [self._binary, *([] if bare else self._options(may_start=may_start)), *command]
        if may_start:
            argv = ["/bin/sh", "-c", _RAISE_LIMITS, *argv]
        try:
            done = subprocess.run(  # noqa: S603 - no shell interprets the arguments
                argv,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                env=_environment(default_server=self.socket_path is None),
                cwd="/",
                timeout=min(max(0.001, self._deadline - time.monotonic()), LONGEST_POLL_S),
                check=False,
            )
        except subprocess.TimeoutExpired:
            message = f"tmux ({self._name}) did not answer within {self._timeout_s:g} s"
            raise one_timeout.timeout_of(self._name, message) from None
        except (FileNotFoundError, PermissionError) as error:
            raise TerminalUnavailable(f"{self._binary} cannot be run: {error.strerror}") from error
        except OSError as error:
            raise TerminalError(f"tmux could not be run: {error.strerror}") from error
        return _Reply(argv, done)

    def _options(self, *, may_start: bool) -> list[str]:
        """Return the options before the command; ``-u`` means UTF-8 in any locale."""
        config = ["-f", str(self.config_file)] if self.config_file else []
        socket = ["-S", str(self.socket_path)] if self.socket_path else []
        return ["-u", *([] if may_start else ["-N"]), *config, *socket]


class _Reply(tmux_cmd):
    """The result of libtmux's ``cmd``, made from a process that has ended."""

    def __init__(self, argv: list[str], done: subprocess.CompletedProcess[bytes]) -> None:
        self.cmd = argv
        self.returncode = done.returncode
        self.stdout = _lines(done.stdout)
        self.stderr = _lines(done.stderr)
        if self.stderr and exit_status.is_dropped():
            # tmux writes an error for each failure, and none otherwise.
            self.returncode = self.returncode or 1


def _lines(output: bytes) -> list[str]:
    return [line for line in output.decode(errors="backslashreplace").split("\n") if line]


class TmuxError(enum.Enum):
    """The reason for exit code 1, as a pattern of tmux's message."""

    NO_SERVER = re.compile(
        r"no server running on|error connecting to .*\((No such file|Connection refused)"
    )
    NO_SESSION = re.compile(r"can't find session|no current target|no sessions")
    DUPLICATE = re.compile(r"duplicate session")
    LOST = re.compile(r"server exited|lost server")

    @classmethod
    def classify(cls, reply: tmux_cmd) -> TmuxError | None:
        """Return the reason for a failed *reply*; None for a success or an unknown reason."""
        if reply.returncode == 0:
            return None
        message = "\n".join(reply.stderr)
        return next((error for error in cls if error.value.search(message)), None)


ABSENT_ERRORS = (TmuxError.NO_SERVER, TmuxError.NO_SESSION)


def _parse(lines: Iterable[str]) -> tuple[Session, ...]:
    """Return the sessions of a listing, each by its first pane; ignore any other line."""
    first: dict[str, tuple[int, Session]] = {}
    for line in lines:
        if found := _LISTED.fullmatch(line):
            server, pane, pid = (int(found[key]) for key in ("server", "pane", "pid"))
            session = Session(found["name"], found["owner"] or None, pid, server)
            if session.name not in first or pane < first[session.name][0]:
                first[session.name] = pane, session
    return tuple(session for _, session in first.values())


def _check_socket(path: str) -> None:
    """Refuse a path where tmux would replace another file, or talk to another user's server."""
    reason = why_replaceable(os.path.dirname(path))  # noqa: PTH120 - for each question to tmux
    if reason:
        raise UntrustedSocket(
            f"the tmux socket {path} cannot be trusted, and was not used: {reason}",
            hint="let only its owner write to that directory: chmod go-w DIRECTORY",
        )
    try:
        status = os.lstat(path)
    except OSError:
        return
    if not stat.S_ISSOCK(status.st_mode) or status.st_uid != os.geteuid():
        raise UntrustedSocket(
            f"{path} is not a socket of this user, and was not used",
            hint=f"see what it is, and move it away: ls -la {path}",
        )


def _check_in_sight(path: str) -> None:
    """Refuse a server in another pid namespace: its panes' pids have no meaning in this one."""
    if is_out_of_sight(path):
        raise TerminalUnavailable(
            f"the tmux server at {path} is in another pid namespace; no session was started there",
            hint="deploy where it runs: outside this container or sandbox, or inside that one; "
            "or use a root of your own here",
        )


def _environment(*, default_server: bool) -> dict[str, str]:
    """
    Return the environment of every tmux process.

    A server passes its own environment to every session as long as it lives. So tokens, and
    the cookie of an agent that deploys, must not be in it.
    """
    names = ["HOME", "LOGNAME", "SHELL", "TERM", "USER"]
    if default_server:
        names.append("TMUX_TMPDIR")  # names the directory of its socket
    kept = {name: os.environ[name] for name in names if name in os.environ}
    return kept | {"PATH": _search_path(), "LANG": "C.UTF-8"}


def _search_path() -> str:
    """Return PATH; the bare default of a service would miss Homebrew's tmux."""
    return os.environ.get("PATH") or f"{os.defpath}:/usr/local/bin:/opt/homebrew/bin"


def _check_version(output: str, binary: str) -> str:
    """Return the *output* of ``tmux -V`` if its version suffices; a development build does."""
    number = re.search(r"(\d+)\.(\d+)", output)
    is_old = number is not None and tuple(map(int, number.groups())) < MINIMUM_VERSION
    if is_old or not output.startswith("tmux "):
        minimum = ".".join(map(str, MINIMUM_VERSION))
        raise TerminalUnavailable(
            f"{binary} is {output or 'no tmux'!r}; {minimum} or newer is needed"
        )
    return output
