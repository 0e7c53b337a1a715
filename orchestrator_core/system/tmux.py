"""
The terminal, kept by real tmux.

One idea: every question is **one** ``tmux`` process, exact in its target,
bounded in time and clean in its environment, and its answer is read for what
it is. tmux exits with 1 whether there is no server, no such session or no way
to ask; only its words tell them apart, so they are told apart here, once, in
:class:`TmuxError`.

The only module that imports libtmux. Of libtmux it takes the server and its
``cmd``, never the listings: those split on a character that an agent can put
into its own title, and then fail for every session of the server.
"""

from __future__ import annotations

import contextlib
import enum
import os
import re
import shutil
import stat
import subprocess
import time
from typing import TYPE_CHECKING, Any, Final

import libtmux
from libtmux.common import tmux_cmd

from orchestrator_core.exceptions import (
    InvalidId,
    InvalidInput,
    SessionExists,
    TerminalError,
    TerminalTimeout,
    TerminalUnavailable,
)
from orchestrator_core.system.paths import SOCKET_PATH_MAX
from orchestrator_core.system.presence import Presence
from orchestrator_core.system.shared_scan import SharedScan
from orchestrator_core.system.terminal import (
    Session,
    SessionState,
    check_argv,
    check_name,
    check_owner,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

OWNER_OPTION: Final = "@orchestrator_owner"
"""The tmux user option of a session that holds its owner."""

MINIMUM_VERSION: Final = (3, 2)
"""The first tmux that has both ``-N`` and ``new-session -e``."""

# A session's name holds neither ":" nor a newline. Its owner, which anybody may
# set to anything, comes last: at its worst it spoils its own line.
_LISTING = "#{pid}:#{pane_id}:#{pane_pid}:#{session_name}:#{" + OWNER_OPTION + "}"
_LISTED = re.compile(
    r"(?P<server>\d+):%(?P<pane>\d+):(?P<pid>\d+):(?P<name>[^:]+):(?P<owner>.*)", re.DOTALL
)

# A server with few descriptors wedges, and every client of it hangs: less than
# a thousand is raised. "$0" and "$@" are the tmux command.
_RAISE_NOFILE = """\
case $(ulimit -S -n) in ?|??|???)
  ulimit -S -n 4096 2>/dev/null || ulimit -S -n "$(ulimit -H -n)" 2>/dev/null
esac
exec "$0" "$@"
"""


class TmuxTerminal:
    """
    Sessions on one tmux server; see :class:`~orchestrator_core.system.terminal.Terminal`.

    With *socket_path* it is a private server: started when it is first needed,
    from ``/``, without a configuration and with nothing of our environment but
    what tmux needs. Without, it is the user's own default server, on which
    nothing but our own sessions is changed. *timeout_s* bounds each call of
    this class as a whole. Safe to use from several threads.
    """

    def __init__(
        self,
        socket_path: str | os.PathLike[str] | None = None,
        *,
        timeout_s: float = 10.0,
        tmux_bin: str | os.PathLike[str] | None = None,
    ) -> None:
        self.socket_path = None if socket_path is None else os.path.abspath(socket_path)  # noqa: PTH100 - never resolved: the path is the identity
        if self.socket_path and len(os.fsencode(self.socket_path)) > SOCKET_PATH_MAX:
            raise InvalidInput(
                f"tmux socket path {self.socket_path!r} is longer than {SOCKET_PATH_MAX} bytes",
                hint="a Unix socket cannot have a longer path; choose a shorter one",
            )
        self.timeout_s = timeout_s
        self._given_bin = None if tmux_bin is None else os.fspath(tmux_bin)
        self._version = ""
        self._session_scan = SharedScan(self.sessions)

    def check(self) -> str:
        """Return tmux's name and version, asked of the program once; see the protocol."""
        if not self._version:
            reply = self._server().run("-V", bare=True)
            self._version = _checked_version(" ".join(reply.stdout), self.binary())
        return self._version

    def binary(self) -> str:
        """
        Return the tmux program that is run.

        Raises:
            TerminalUnavailable: There is none.
        """
        found = self._given_bin or shutil.which("tmux", path=_search_path())
        if not found:
            raise TerminalUnavailable(f"there is no tmux in {_search_path()}")
        return found

    def start(self, name: str, *, owner: str, argv: Sequence[str]) -> Session:
        """Start a session with one tmux process; with two more if no server runs yet."""
        command = _new_session(check_name(name), check_owner(owner), argv)
        if self.socket_path is not None:
            _refuse_foreign_path(self.socket_path)
        server = self._server()
        reply = self._run(server, *command)
        if TmuxError.classify(reply) is TmuxError.NO_SERVER:
            reply = self._start_server(server, command)
        created = _parse(reply.stdout)
        if reply.returncode == 0 and created:
            return Session(name, owner, created[0].pane_pid, created[0].server_pid)
        if TmuxError.classify(reply) is TmuxError.DUPLICATE:
            raise SessionExists(f"tmux session {name!r} is there already")
        if created:
            # It was made, and then refused to be marked as ours.
            self._run(server, *kill_if(name, f"#{{==:#{{pane_pid}},{created[0].pane_pid}}}"))
        raise self._terminal_error(f"start session {name!r}", reply)

    def inspect(self, name: str, *, owner: str) -> SessionState:
        """Tell whether the session is there and ours, with one tmux process."""
        try:
            found = self._list("-s", "-t", f"={check_name(name)}:")
        except (InvalidId, TerminalError) as error:
            return SessionState(Presence.UNKNOWN, why=str(error))
        seen = next((session for session in found if session.name == name), None)
        if seen is None:
            return SessionState(Presence.ABSENT)
        return SessionState(Presence.OURS if seen.owner == owner else Presence.FOREIGN, seen)

    def kill(self, name: str, *, owner: str, absent_since: float | None = None) -> Presence:
        """
        End the session if it is *owner*'s; the server itself compares and kills.

        Many that have been gone share one tmux process.
        """
        ours = f"#{{==:#{{{OWNER_OPTION}}},{check_owner(owner)}}}"
        if absent_since is not None and not self._was_listed(check_name(name), absent_since):
            return Presence.ABSENT
        reply = self._run(self._server(), *kill_if(check_name(name), ours))
        with contextlib.suppress(ValueError, IndexError):
            return Presence(reply.stdout[-1])
        if TmuxError.classify(reply) in ABSENT_ERRORS:
            return Presence.ABSENT
        raise self._terminal_error(f"end session {name!r}", reply)

    def _was_listed(self, name: str, since: float) -> bool:
        listed = self._session_scan.get(since=since)
        return any(session.name == name for session in listed)

    def sessions(self) -> tuple[Session, ...]:
        """List all sessions with one tmux process; none if no server runs."""
        return self._list("-a")

    def run(self, *command: str) -> tmux_cmd:
        """
        Return what the server answers to one command; it is not started by being asked.

        Raises:
            TerminalTimeout: No answer in time: unknown.
            TerminalUnavailable: There is no usable tmux.
        """
        return self._run(self._server(), *command)

    def _list(self, *which: str) -> tuple[Session, ...]:
        reply = self._run(self._server(), "list-panes", *which, "-F", _LISTING)
        if reply.returncode == 0:
            return _parse(reply.stdout)
        if TmuxError.classify(reply) in ABSENT_ERRORS:
            return ()
        raise self._terminal_error("list sessions", reply)

    def _run(self, server: _Server, *command: str) -> tmux_cmd:
        """Run one command; once more if the server went away while it was asked."""
        reply = server.cmd(*command)
        return server.cmd(*command) if TmuxError.classify(reply) is TmuxError.LOST else reply

    def _start_server(self, server: _Server, command: tuple[str, ...]) -> tmux_cmd:
        """
        Start the server and give it *command*; where several do, one server comes of it.

        A private server is started first and by itself: it shows its first
        command line for ever, and would show *command*, and end with its last session.
        """
        if self.socket_path is None:
            return server.run(*command, may_start=True)
        reply = server.run(*_START_SERVER, may_start=True)
        if reply.returncode or reply.stderr:
            raise self._terminal_error("start a server", reply)
        return self._run(server, *command)

    def _terminal_error(self, what: str, reply: tmux_cmd) -> TerminalError:
        """Return the error for an answer that no case above has expected."""
        self.check()  # An old tmux refuses what a new one knows: that is the better message.
        said = "; ".join(reply.stderr) or f"exit code {reply.returncode}, and no message"
        return TerminalError(
            f"tmux ({self._server_name()}) did not {what}: {said}",
            hint="command too long: pass large values in files" if "too long" in said else "",
        )

    def _server(self) -> _Server:
        """Return a server handle for one operation, whose time starts now."""
        return _Server(
            self.socket_path,
            tmux_bin=self.binary(),
            timeout_s=self.timeout_s,
            place=self._server_name(),
        )

    def _server_name(self) -> str:
        return self.socket_path or "the default server"


class _Server(libtmux.Server):
    """A libtmux server whose ``cmd`` is clean, cannot start a server, and ends in time."""

    def __init__(
        self, socket_path: str | None, *, tmux_bin: str, timeout_s: float, place: str
    ) -> None:
        private = socket_path is not None
        super().__init__(
            socket_path=socket_path,
            config_file=os.devnull if private else None,
            tmux_bin=tmux_bin,
        )
        self._binary = tmux_bin
        self._server_name = place
        self._timeout_s = timeout_s
        self._deadline = time.monotonic() + timeout_s

    def cmd(self, cmd: str, *args: Any, target: str | int | None = None) -> tmux_cmd:  # noqa: ANN401 - libtmux's own signature
        """Run one tmux command on this server, if it runs."""
        at = () if target is None else ("-t", str(target))
        return self.run(cmd, *at, *map(str, args))

    def run(self, *command: str, may_start: bool = False, bare: bool = False) -> tmux_cmd:
        """Run tmux; *may_start* a server, or *bare*, without one."""
        argv = [self._binary, *([] if bare else self._options(may_start=may_start)), *command]
        if may_start:
            argv = ["/bin/sh", "-c", _RAISE_NOFILE, *argv]
        try:
            done = subprocess.run(  # noqa: S603 - an argv of ours, no shell sees it
                argv,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                env=_environment(default_server=self.socket_path is None),
                cwd="/",
                timeout=max(0.001, self._deadline - time.monotonic()),
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise TerminalTimeout(
                f"tmux ({self._server_name}) did not answer within {self._timeout_s:g} s"
            ) from None
        except (FileNotFoundError, PermissionError) as error:
            raise TerminalUnavailable(f"{self._binary} cannot be run: {error.strerror}") from error
        except OSError as error:
            raise TerminalError(f"tmux could not be run: {error.strerror}") from error
        return _Reply(argv, done)

    def _options(self, *, may_start: bool) -> list[str]:
        """Return the options that stand before the command; ``-u``: UTF-8 in any locale."""
        config = ["-f", str(self.config_file)] if self.config_file else []
        socket = ["-S", str(self.socket_path)] if self.socket_path else []
        return ["-u", *([] if may_start else ["-N"]), *config, *socket]


class _Reply(tmux_cmd):
    """What libtmux's ``cmd`` returns, made from a process that has ended already."""

    def __init__(self, argv: list[str], done: subprocess.CompletedProcess[bytes]) -> None:
        self.cmd = argv
        self.returncode = done.returncode
        self.stdout = _lines(done.stdout)
        self.stderr = _lines(done.stderr)


def _lines(said: bytes) -> list[str]:
    return [line for line in said.decode(errors="backslashreplace").split("\n") if line]


class TmuxError(enum.Enum):
    """Why tmux exited with 1, by the words it has for it."""

    NO_SERVER = re.compile(
        r"no server running on|error connecting to .*\((No such file|Connection refused)"
    )
    NO_SESSION = re.compile(r"can't find session|no current target|no sessions")
    DUPLICATE = re.compile(r"duplicate session")
    LOST = re.compile(r"server exited|lost server")

    @classmethod
    def classify(cls, reply: tmux_cmd) -> TmuxError | None:
        """Return the error that *reply* tells of; None if none, or none we know."""
        if reply.returncode == 0:
            return None
        said = "\n".join(reply.stderr)
        return next((error for error in cls if error.value.search(said)), None)


ABSENT_ERRORS = (TmuxError.NO_SERVER, TmuxError.NO_SESSION)

# exit-empty off: with it on, a session made just as the last one ends is lost.
_START_SERVER = (
    *("start-server", ";"),
    *("set-option", "-s", "exit-empty", "off", ";"),
    *("set-option", "-g", "history-limit", "200"),
)


def _new_session(name: str, owner: str, argv: Sequence[str]) -> tuple[str, ...]:
    """Return one tmux command line that starts the session, marks it ours and prints it."""
    # A user's configuration may keep dead panes, or end sessions nobody looks at.
    return (
        *(
            "new-session",
            "-d",
            "-P",
            "-F",
            _LISTING,
            "-s",
            name,
            "-c",
            "/",
            "-x",
            "200",
            "-y",
            "50",
        ),
        *("-e", f"ORCHESTRATOR_COOKIE={owner}", "--", *_literal_argv(argv), ";"),
        *("set-option", "-t", f"={name}:", OWNER_OPTION, owner, ";"),
        *("set-option", "-t", f"={name}:", "destroy-unattached", "off", ";"),
        *("set-option", "-w", "-t", f"={name}:", "remain-on-exit", "off"),
    )


def kill_if(name: str, condition: str) -> tuple[str, ...]:
    """
    Return a tmux command that ends the session if *condition* holds, and says what it found.

    The server runs both in one go, with no other client's command between them.
    """
    ours, foreign = Presence.OURS.value, Presence.FOREIGN.value
    return (
        *("if-shell", "-F", "-t", f"={name}:", condition),
        f"kill-session -t ={name} ; display-message -p {ours}",
        f"has-session -t ={name} ; display-message -p {foreign}",
    )


def _literal_argv(argv: Sequence[str]) -> list[str]:
    """Return *argv* such that the program gets each element unchanged, and no shell reads it."""
    if len(check_argv(argv)) == 1:
        # tmux hands a single word to a shell; this one only becomes the program.
        argv = ["/bin/sh", "-c", 'exec "$0"', *argv]
    # A ";" at the end of an argument ends the tmux command, unless escaped.
    return [arg[:-1] + "\\;" if arg.endswith(";") else arg for arg in argv]


def _parse(lines: Iterable[str]) -> tuple[Session, ...]:
    """Return the sessions of a listing, each by its first pane; what is no line of ours is not."""
    first: dict[str, tuple[int, Session]] = {}
    for line in lines:
        if found := _LISTED.fullmatch(line):
            server, pane, pid = (int(found[key]) for key in ("server", "pane", "pid"))
            session = Session(found["name"], found["owner"] or None, pid, server)
            if session.name not in first or pane < first[session.name][0]:
                first[session.name] = pane, session
    return tuple(session for _, session in first.values())


def _refuse_foreign_path(path: str) -> None:
    """Refuse to let tmux replace what is no socket, or talk to a stranger's."""
    try:
        there = os.lstat(path)
    except OSError:
        return
    if not stat.S_ISSOCK(there.st_mode) or there.st_uid != os.geteuid():
        raise TerminalError(
            f"{path} is not a socket of ours, so no session was started there",
            hint=f"see what it is, and move it away: ls -la {path}",
        )


def _environment(*, default_server: bool) -> dict[str, str]:
    """
    Return all that tmux gets of our environment.

    A server passes what it was started with to every session for as long as it
    lives; tokens, and the cookie of an agent that deploys, must not be in it.
    """
    kept = ["HOME", "LOGNAME", "SHELL", "TERM", "USER"]
    if default_server:
        kept.append("TMUX_TMPDIR")  # names the directory of its socket
    ours = {key: os.environ[key] for key in kept if key in os.environ}
    return ours | {"PATH": _search_path(), "LANG": "C.UTF-8"}


def _search_path() -> str:
    """Return our PATH; a service's bare one misses where Homebrew puts tmux."""
    return os.environ.get("PATH") or f"{os.defpath}:/usr/local/bin:/opt/homebrew/bin"


def _checked_version(said: str, binary: str) -> str:
    """Return what ``tmux -V`` *said* if it is new enough; a development build is."""
    number = re.search(r"(\d+)\.(\d+)", said)
    if not said.startswith("tmux ") or (
        number and tuple(map(int, number.groups())) < MINIMUM_VERSION
    ):
        wanted = ".".join(map(str, MINIMUM_VERSION))
        raise TerminalUnavailable(f"{binary} is {said or 'no tmux'!r}; {wanted} or newer is needed")
    return said
