"""Checks of tmux: the program, its socket, the server behind it."""

from __future__ import annotations

import os
import re
import socket
import stat
import struct
import sys
from typing import TYPE_CHECKING, Any

from orchestrator_core.exceptions import TerminalError, TerminalTimeout
from orchestrator_core.operations.doctor.check import (
    Answer,
    Environment,
    failed,
    from_error,
    ok,
    unknown,
    warning,
)
from orchestrator_core.supervisor import procfs as proc
from orchestrator_core.system.paths import SOCKET_PATH_MAX

if TYPE_CHECKING:
    from pathlib import Path

_FEW_FILES = 1024  #: A server that may open fewer wedges some day, and every client of it.
_FILES_LEFT = 50
_NO_ROOT = "a root that was used once has a socket; see: root, root.json"


def program(subject: Environment) -> Answer:
    """See whether there is a tmux that we can use, and where."""
    try:
        terminal = _terminal(subject, None)
        return ok(f"{terminal.check()} at {terminal.binary()}")
    except TerminalError as error:
        return from_error(error)
    except ImportError as error:
        return failed(f"tmux cannot be asked: {error}", "see: libraries")


def _terminal(subject: Environment, at: Path | None) -> Any:  # noqa: ANN401 - imported only here
    from orchestrator_core.system.tmux import TmuxTerminal  # noqa: PLC0415 - libtmux may be missing

    return TmuxTerminal(at, timeout_s=subject.timeout_s)


# --- the socket ---------------------------------------------------------------------------------


def socket_file(subject: Environment) -> Answer:
    """See whether a server can have its socket where the root says, and who has one there."""
    path = subject.socket
    if path is None:
        return _nowhere(subject)
    length = len(os.fsencode(path))
    if length > SOCKET_PATH_MAX:
        return failed(
            f"{path} has {length} bytes, and a socket's address {SOCKET_PATH_MAX} at most",
            "use a root with a shorter path",
        )
    return _place(path) or _file(path)


def _nowhere(subject: Environment) -> Answer:
    if subject.layout is None or subject.fixed is None:
        return ok("none yet: its place is chosen when the root is first used")
    return unknown("root.json does not tell where it is", _NO_ROOT)


def _place(path: Path) -> Answer | None:
    try:
        there = os.lstat(path.parent)
    except FileNotFoundError:
        # In /tmp, cleaners come by.
        return warning(
            f"{path.parent} is gone, and a server that listens there cannot be reached any more",
            "the next deployment makes it again; orchestrator-core recover ends who was lost",
        )
    if there.st_uid != os.geteuid():
        return failed(
            f"{path.parent} belongs to user {there.st_uid}: it is not ours",
            f"have it removed, or use another root: ls -ld {path.parent}",
        )
    if there.st_mode & 0o022:
        return failed(f"others can write to {path.parent}", f"chmod 700 {path.parent}")
    return None


def _file(path: Path) -> Answer:
    try:
        there = os.lstat(path)
    except FileNotFoundError:
        return ok(f"{path}: no server has been started, or it has ended")
    if not stat.S_ISSOCK(there.st_mode):
        return failed(f"{path} is no socket", f"see what it is, and move it away: ls -la {path}")
    if there.st_uid != os.geteuid():
        return failed(
            f"{path} belongs to user {there.st_uid}, and so does who listens there",
            f"have it removed, or use another root: ls -la {path}",
        )
    if there.st_mode & 0o002:
        return failed(f"every user may talk to {path}", f"chmod o-rwx {path}")
    if listener(path) is None:
        return warning(
            f"{path} is stale: the server that made it has ended",
            "the next deployment replaces it; orchestrator-core recover ends who was lost with it",
        )
    return ok(str(path))


def listener(path: Path, timeout_s: float = 2.0) -> int | None:
    """
    Return the pid of who listens at a socket, even if it is stopped; None if nobody does.

    0 means that somebody does, and that it cannot be told who.
    """
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(timeout_s)
        try:
            client.connect(os.fspath(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        except OSError:  # It hears nobody any more; that is for others to say.
            return 0
        if sys.platform != "linux":
            return 0
        told = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        pid: int = struct.unpack("3i", told)[0]
        return pid


# --- the server -----------------------------------------------------------------------------------


def server(subject: Environment) -> Answer:
    """See whether the server answers, if one runs."""
    path = subject.socket
    if path is None:
        return _nowhere(subject)
    if not path.exists():
        return ok("none runs")
    try:
        sessions = _terminal(subject, path).sessions()
    except TerminalTimeout as timeout:
        return _hangs(path, str(timeout))
    except TerminalError as error:
        return from_error(error)
    pid = listener(path)
    if pid is None:
        return ok("none runs")
    return ok(f"pid {pid} answers, and has {len(sessions)} sessions")


def _hangs(path: Path, said: str) -> Answer:
    pid = listener(path)
    if not pid:
        return failed(said, f"find who hangs, and end it: pgrep -af 'tmux.*{path}'")
    seen = proc.stat(pid)
    if seen is not None and seen.state == "T":
        return failed(f"{said}: the server, pid {pid}, is stopped", f"kill -CONT {pid}")
    return failed(
        f"{said}: the server is pid {pid}",
        f"if it stays so: kill -9 {pid}, then orchestrator-core recover",
    )


def descriptors(subject: Environment) -> Answer:
    """See how many files the server may open, and how many it has open."""
    path = subject.socket
    pid = listener(path) if path is not None else None
    if not pid:
        return ok("no server runs")
    limit, used = _files_of(pid)
    if limit is None:
        return unknown(f"the limits of pid {pid} cannot be read", f"cat /proc/{pid}/limits")
    found = f"it may open {limit} files, and has {used} open"
    raised = f"prlimit --pid {pid} --nofile=4096:4096, or as far as the hard limit goes"
    if limit - used < _FILES_LEFT:
        return failed(f"{found}: with none left, it and all its clients hang", raised)
    if limit < _FEW_FILES:
        return warning(f"{found}: with none left, it and all its clients hang", raised)
    return ok(found)


def _files_of(pid: int) -> tuple[int | None, int]:
    told = re.search(rb"^Max open files +(\d+)", proc.read(f"/proc/{pid}/limits"), re.MULTILINE)
    try:
        used = len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208 - names are enough
    except OSError:
        return None, 0
    return (None if told is None else int(told[1])), used
