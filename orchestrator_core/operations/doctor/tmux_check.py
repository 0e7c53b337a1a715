"""Checks of tmux: the program, the root's socket, the server that listens there."""

from __future__ import annotations

import contextlib
import os
import resource
import shlex
import stat
from typing import TYPE_CHECKING, Any

from orchestrator_core.deployment.liveness import session_receipt
from orchestrator_core.exceptions import OrchestratorError, TerminalError, TerminalTimeout
from orchestrator_core.operations.doctor.check import Check, Environment
from orchestrator_core.saga.store import JournalStore
from orchestrator_core.supervisor import procfs as proc
from orchestrator_core.system.names import is_id
from orchestrator_core.system.paths import SOCKET_PATH_MAX
from orchestrator_core.system.processes import identity
from orchestrator_core.system.unix_socket import has_listener, listener

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from orchestrator_core.model.layout import Layout

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
    problem = _check_directory(path.parent) or _check_socket(path)
    return _unreachable_server(environment, path) or problem


def _no_socket(environment: Environment) -> Check:
    if environment.layout is None or environment.root_record is None:
        return Check.ok("none yet: its path is chosen when the root is first used")
    remedy = "a used root has a socket; see: root, root.json"
    return Check.unknown("root.json does not have the path of the socket", remedy)


def _unreachable_server(environment: Environment, path: Path) -> Check | None:
    """Return the failure of a server that lives, with agents, and does not listen at *path*."""
    if environment.layout is None or has_listener(path):
        return None
    agents = dict(_living_servers(environment.layout))
    if not agents:
        return None
    found = ", ".join(f"server pid {pid} with {agent}" for pid, agent in sorted(agents.items()))
    remedy = f"kill -USR1 {' '.join(map(str, agents))}, which makes tmux create it again"
    if not path.parent.is_dir():
        remedy = f"mkdir -m 700 {shlex.quote(str(path.parent))}, and then {remedy}"
    return Check.failed(
        f"nothing listens at {path}, and agents live on: {found}; "
        "the socket was removed, or root.json was changed",
        remedy,
    )


def _living_servers(layout: Layout) -> Iterator[tuple[int, str]]:
    """Yield the pid of each tmux server that has a live agent's pane, and such an agent."""
    journals = JournalStore(layout.sagas)
    for saga_id in filter(is_id, journals.ids()):
        # Its check reports a journal that cannot be read. A saga may be no agent's.
        with contextlib.suppress(OrchestratorError):
            supervisor = session_receipt(journals.open_history(saga_id)).supervisor
            pane = None if supervisor is None else identity.pane_of(supervisor)
            if pane is not None and pane.server is not None and not pane.hung_up:
                yield pane.server.pid, saga_id


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
    if pid is None:
        return Check.ok("none runs")
    found = f"pid {pid} answers, and has {len(sessions)} sessions"
    return _check_priority(pid, path, found) if pid else Check.ok(found)


def _check_priority(pid: int, path: Path, found: str) -> Check:
    """Check that agents can have the priority of this process, as a deployer asks for it."""
    nice, own = (os.getpriority(os.PRIO_PROCESS, each) for each in (pid, 0))
    if nice <= own or os.geteuid() == 0:
        return Check.ok(found)
    return Check.warning(
        f"{found}; it was started with nice {nice}, and the kernel gives no agent less, "
        f"although this process has {own}",
        f"when no agent lives: tmux -S {shlex.quote(str(path))} kill-server; "
        "the next deployment starts another",
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
