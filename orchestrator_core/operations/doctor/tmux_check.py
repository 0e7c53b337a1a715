"""Checks of tmux: the program, the root's socket, the server that listens there."""

from __future__ import annotations

import os
import resource
import socket
import stat
import struct
import sys
from typing import TYPE_CHECKING, Any

from orchestrator_core.exceptions import TerminalError, TerminalTimeout
from orchestrator_core.operations.doctor.check import Check, Environment
from orchestrator_core.supervisor import procfs as proc
from orchestrator_core.system.paths import SOCKET_PATH_MAX

if TYPE_CHECKING:
    from pathlib import Path

_LOW_FILES = 1024  #: A server with fewer files may hang some day, and its clients with it.
_FILES_LEFT = 50
_RECREATED = "the next deployment creates it again; orchestrator-core recover ends the lost agents"


def program(environment: Environment) -> Check:
    """Check that there is a supported tmux, and report its path."""
    try:
        terminal = _terminal(environment, None)
        return Check.ok(f"{terminal.check()} at {terminal.binary()}")
    except TerminalError as error:
        return Check.from_error(error)
    except ImportError as error:
        return Check.failed(f"tmux cannot be queried: {error}", "see: libraries")


def _terminal(environment: Environment, socket_path: Path | None) -> Any:  # noqa: ANN401 - imported only here
    from orchestrator_core.system.tmux import TmuxTerminal  # noqa: PLC0415 - libtmux may be missing

    return TmuxTerminal(socket_path, timeout_s=environment.timeout_s)


# --- the socket ---------------------------------------------------------------------------------


def socket_file(environment: Environment) -> Check:
    """Check that a server can have the root's socket, and that no other user has."""
    path = environment.socket
    if path is None:
        return _no_socket(environment)
    length = len(os.fsencode(path))
    if length > SOCKET_PATH_MAX:
        found = f"{path} has {length} bytes; a socket's address has at most {SOCKET_PATH_MAX}"
        return Check.failed(found, "use a root with a shorter path")
    return _check_directory(path.parent) or _check_socket(path)


def _no_socket(environment: Environment) -> Check:
    if environment.layout is None or environment.root_record is None:
        return Check.ok("none yet: its path is chosen when the root is first used")
    remedy = "a used root has a socket; see: root, root.json"
    return Check.unknown("root.json does not have the path of the socket", remedy)


def _check_directory(directory: Path) -> Check | None:
    """Return the problem with a socket's directory; None if it has none."""
    try:
        status = os.lstat(directory)
    except FileNotFoundError:  # For example in /tmp, by a cleaner.
        return Check.warning(f"{directory} is gone, and its server is unreachable", _RECREATED)
    if status.st_uid != os.geteuid():
        found = f"{directory} belongs to user {status.st_uid}, not to this user"
        return Check.failed(found, f"have it removed, or use another root: ls -ld {directory}")
    if status.st_mode & 0o022:
        return Check.failed(f"others can write to {directory}", f"chmod 700 {directory}")
    return None


def _check_socket(path: Path) -> Check:
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return Check.ok(f"{path}: no server has been started, or it has ended")
    if not stat.S_ISSOCK(status.st_mode):
        return Check.failed(
            f"{path} is no socket", f"see what it is, and move it away: ls -la {path}"
        )
    if status.st_uid != os.geteuid():
        found = f"{path} belongs to user {status.st_uid}, and so does its server"
        return Check.failed(found, f"have it removed, or use another root: ls -la {path}")
    if status.st_mode & 0o002:
        return Check.failed(f"every user can connect to {path}", f"chmod o-rwx {path}")
    if listener(path) is None:
        return Check.warning(f"{path} is stale: the server that created it has ended", _RECREATED)
    return Check.ok(str(path))


def listener(path: Path, timeout_s: float = 2.0) -> int | None:
    """
    Return the pid of the process that listens at a socket, even if it is stopped; None if none.

    0 means that a process listens, but its pid is unknown.
    """
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(timeout_s)
        try:
            client.connect(os.fspath(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        except OSError:  # A process listens, but does not accept.
            return 0
        if sys.platform != "linux":
            return 0
        data = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        pid: int = struct.unpack("3i", data)[0]
        return pid


# --- the server -----------------------------------------------------------------------------------


def server(environment: Environment) -> Check:
    """Check that the server answers, if one runs."""
    path = environment.socket
    if path is None:
        return _no_socket(environment)
    if not path.exists():
        return Check.ok("none runs")
    try:
        sessions = _terminal(environment, path).sessions()
    except TerminalTimeout as timeout:
        return _describe_hang(path, str(timeout))
    except TerminalError as error:
        return Check.from_error(error)
    pid = listener(path)
    return Check.ok(
        "none runs" if pid is None else f"pid {pid} answers, and has {len(sessions)} sessions"
    )


def _describe_hang(path: Path, found: str) -> Check:
    pid = listener(path)
    if not pid:
        return Check.failed(
            found, f"find the process that hangs, and end it: pgrep -af 'tmux.*{path}'"
        )
    status = proc.stat(pid)
    if status is not None and status.state == "T":
        return Check.failed(f"{found}: the server, pid {pid}, is stopped", f"kill -CONT {pid}")
    remedy = f"if it still hangs: kill -9 {pid}, then orchestrator-core recover"
    return Check.failed(f"{found}: the server is pid {pid}", remedy)


def descriptors(environment: Environment) -> Check:
    """Check how many files the server may open, and how many it has open."""
    path = environment.socket
    pid = listener(path) if path is not None else None
    if not pid:
        return Check.ok("no server runs")
    try:
        allowed, _ = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        used = len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208 - names are enough
    except OSError:
        return Check.unknown(f"the limits of pid {pid} cannot be read", f"cat /proc/{pid}/limits")
    found = f"it may open {allowed} files, and has {used} open"
    remedy = f"prlimit --pid {pid} --nofile=4096:4096, or as far as the hard limit goes"
    if allowed >= _LOW_FILES and allowed - used >= _FILES_LEFT:
        return Check.ok(found)
    result = Check.failed if allowed - used < _FILES_LEFT else Check.warning
    return result(f"{found}: with none left, the server and all its clients hang", remedy)
