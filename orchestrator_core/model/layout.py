"""
Where everything is.

A *root* is one directory that holds all state of one orchestrator: registries,
journals, and a directory per task. :class:`Places` knows its layout, names only,
touching nothing. :func:`open_root` finds a root, makes what is missing, and
returns what was fixed when it was first used, for ever: its id, and the tmux
socket, which any later process must find again whatever its HOME, its XDG_* or
its TMUX_TMPDIR.
"""

from __future__ import annotations

import functools
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from orchestrator_core.exceptions import InvalidInput, RegistryDamaged, RegistryTooNew, StorageError
from orchestrator_core.model import ids
from orchestrator_core.system import durable, locks, paths
from orchestrator_core.system.clock import timestamp
from orchestrator_core.system.names import check_id, is_id
from orchestrator_core.system.os_errors import storage_errors
from orchestrator_core.system.paths import SOCKET_PATH_MAX

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

DIRECTORY_NAME = ".agent-workspace"
ENVIRONMENT = ("ORCHESTRATOR_ROOT", "CLAUDE_ORCHESTRATOR_WORKSPACE")
SCHEMA_VERSION = 1
DEFAULT_TERMINAL = "tmux"

_OPEN_TIMEOUT_S = 10.0


class Layout(NamedTuple):
    """The layout of one root. Every id is checked before it becomes part of a path."""

    root: Path

    @property
    def root_file(self) -> Path:
        """What was fixed at the root's first use."""
        return self.root / "root.json"

    @property
    def global_registry(self) -> Path:
        """The document of live agents and totals."""
        return _in(self.root, "registry/GLOBAL_REGISTRY.json")

    @property
    def statistics(self) -> Path:
        """The document of what is remembered of journals that are gone, and of sweeps."""
        return _in(self.root, "registry/STATS.json")

    @property
    def sweeper_lock(self) -> Path:
        """The lock of the resident sweeper; on no file that is replaced, which guards nothing."""
        return _in(self.root, "registry/sweeper.lock")

    @property
    def sagas(self) -> Path:
        """The journals; those of closed sagas are below, in ``closed/``."""
        return self.root / "sagas"

    def journal(self, agent_id: str) -> Path:
        """Return an agent's journal, while its saga is not closed."""
        return _of_agent(self.root, "sagas/{}.jsonl", agent_id)

    def task(self, task_id: str) -> Path:
        """Return a task's directory."""
        return _task(self.root, task_id)

    def task_registry(self, task_id: str) -> Path:
        """Return a task's document. A task exists if it is there."""
        return _in(self.task(task_id), "AGENT_REGISTRY.json")

    def prompt(self, task_id: str, agent_id: str) -> Path:
        """Return an agent's prompt file."""
        return _of_agent(self.task(task_id), "agent_prompt_{}.txt", agent_id)

    def log(self, task_id: str, agent_id: str) -> Path:
        """Return an agent's log: what it wrote to its standard output and error."""
        return _of_agent(self.task(task_id), "logs/{}_stream.jsonl", agent_id)

    def deploy_log(self, task_id: str, agent_id: str) -> Path:
        """Return the record of how an agent was deployed."""
        return _of_agent(self.task(task_id), "logs/deploy_{}.json", agent_id)

    def progress(self, task_id: str, agent_id: str) -> Path:
        """Return the file of an agent's progress reports."""
        return _of_agent(self.task(task_id), "progress/{}_progress.jsonl", agent_id)

    def findings(self, task_id: str, agent_id: str) -> Path:
        """Return the file of an agent's findings."""
        return _of_agent(self.task(task_id), "findings/{}_findings.jsonl", agent_id)

    def archive(self, task_id: str) -> Path:
        """Return where the files of a task's ended agents are kept."""
        return _in(self.task(task_id), "archive")

    def output(self, task_id: str) -> Path:
        """Return where a task's agents may put their results."""
        return _in(self.task(task_id), "output")

    def run_dir(self, task_id: str, agent_id: str) -> Path:
        """Return the directory that an agent's supervisor and its deployer share."""
        return _of_agent(self.task(task_id), "run/{}", agent_id)

    def resource_dir(self, agent_id: str) -> Path:
        """Return where an agent's steps of one's own keep what is to be gone with it."""
        return _of_agent(self.root, "held/{}", agent_id)

    def task_ids(self) -> list[str]:
        """Return the ids of all tasks, sorted: with our names, oldest first."""
        return sorted(self._tasks())

    def _tasks(self) -> Iterator[str]:
        with storage_errors("list", self.root), os.scandir(self.root) as entries:
            for entry in entries:
                # A copy that somebody made, TASK-….bak, is not one of them.
                is_named = entry.name.startswith("TASK-") and is_id(entry.name)
                if is_named and _has_registry(entry):
                    yield entry.name


# One deployment asks for the same dozen places again and again, and pathlib is slow.


@functools.lru_cache(maxsize=64)
def _task(root: Path, task_id: str) -> Path:
    return root / check_id("task", task_id)


@functools.lru_cache(maxsize=64)
def _in(directory: Path, name: str) -> Path:
    return directory / name


@functools.lru_cache(maxsize=512)
def _of_agent(directory: Path, name: str, agent_id: str) -> Path:
    return directory / name.format(check_id("agent", agent_id))


def _has_registry(entry: os.DirEntry[str]) -> bool:
    """Tell whether a directory is a task's, be its registry in place or set aside as damaged."""
    name = "AGENT_REGISTRY.json"
    if os.path.lexists(f"{entry.path}/{name}"):
        return True
    try:
        return any(other.startswith(f"{name}.damaged-") for other in os.listdir(entry.path))  # noqa: PTH208 - names are enough
    except OSError:
        return False


# --- opening ----------------------------------------------------------------------------------


class RootRecord(NamedTuple):
    """The content of ``root.json``: what the root's first use fixed."""

    root_id: str
    tmux_socket: Path
    terminal: str = DEFAULT_TERMINAL  #: The name of the terminal's class.


class Root(NamedTuple):
    """A root in use: its layout, and what was fixed at its first use."""

    layout: Layout
    root_id: str  #: 8 hex; part of every cookie.
    tmux_socket: Path  #: Absolute, and short enough for a socket's address.
    chosen_by: str  #: What led here: "the argument", "ORCHESTRATOR_ROOT", …
    terminal: str = DEFAULT_TERMINAL  #: The name of the terminal's class.


def find_root(
    root: str | os.PathLike[str] | None = None,
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> tuple[Path, str]:
    """
    Tell which directory is meant, and what says so. Touches nothing.

    The argument, then the environment, then the nearest ``.agent-workspace`` in
    the working directory or above it, then a new one in the working directory.
    """
    env = os.environ if env is None else env
    if root is not None and os.fspath(root):
        return _absolute(_from(cwd, root)), "the argument"
    for name in ENVIRONMENT:
        if env.get(name):
            return _absolute(_from(cwd, env[name])), name
    cwd = _from(cwd, "")
    for directory in (cwd, *cwd.parents):
        if (directory / DIRECTORY_NAME).is_dir():
            return _absolute(directory / DIRECTORY_NAME), f"the nearest above {cwd}"
    return _absolute(cwd / DIRECTORY_NAME), "the working directory"


def open_root(
    root: str | os.PathLike[str] | None = None,
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    terminal: str | None = None,
) -> Root:
    """
    Find a root as :func:`find_root` does, make what is missing, and return it.

    Of racing first openers one fixes the id and the socket, and all return those.
    Whoever opens it can write there: what cannot work fails here, before anything
    is taken. The first use also records the name of the *terminal*, for all later ones.

    Raises:
        InvalidInput: The root was first used with another terminal than *terminal*.
        StorageError: It is a file, another user's, not writable, open to all, a copy, …
        RegistryDamaged: Its ``root.json`` cannot be read.
        RegistryTooNew: A newer release has used it.
        LockTimeout: Somebody else is at its first use, and hangs.
    """
    path, chosen_by = find_root(root, env=env, cwd=cwd)
    try:
        layout = Layout(path)
        _make_root(layout)
        record = read_root_file(layout) or _fix(layout, terminal or DEFAULT_TERMINAL)
        if record.tmux_socket.parent != path:
            _make_private(record.tmux_socket.parent)
    except StorageError as error:
        raise StorageError(
            f"root {path} (from {chosen_by}): {error}", hint=error.hint
        ) from error.__cause__
    if terminal not in (None, record.terminal):
        raise InvalidInput(
            f"the root {path} uses the terminal {record.terminal!r}, not {terminal!r}",
            hint="a root keeps the terminal of its first use; use another root",
        )
    return Root(layout, record.root_id, record.tmux_socket, chosen_by, record.terminal)


def _from(cwd: Path | None, path: str | os.PathLike[str]) -> Path:
    """Return where a path leads to from *cwd*, or else from the working directory."""
    if cwd is None and not Path(path).is_absolute():
        try:
            cwd = Path.cwd()
        except FileNotFoundError as error:
            raise StorageError(
                "the working directory is gone", hint="cd to one that is there, or name the root"
            ) from error
    return Path(path) if cwd is None else cwd / path


def _absolute(path: Path) -> Path:
    """Follow the symlinks on the way to a root, once; inside it, none is followed."""
    try:
        return paths.resolve(path)
    except (OSError, ValueError) as error:
        raise StorageError(f"{path} leads nowhere: {error}", hint="is the root right?") from error


def _make_root(layout: Layout) -> None:
    durable.make_directory(layout.root)
    if layout.root.stat().st_mode & stat.S_IWOTH:
        raise StorageError("every user can write to it", hint=f"chmod o-w {layout.root}")
    if not os.access(layout.root, os.R_OK | os.W_OK | os.X_OK):
        raise StorageError("we cannot write to it", hint=f"chmod u+rwx {layout.root}")
    for directory in (layout.global_registry.parent, layout.sagas, layout.sagas / "closed"):
        durable.make_directory(directory)


def read_root_file(layout: Layout) -> RootRecord | None:
    """
    Return the root's record; None if it was never used. Touches nothing.

    Raises:
        RegistryDamaged, RegistryTooNew, StorageError: As in :func:`open_root`.
    """
    path = layout.root_file
    try:
        data = durable.read(path)
    except FileNotFoundError:
        return None
    try:
        document: dict[str, Any] = msgspec.json.decode(data, type=dict[str, Any])
        version, root_id = document["schema_version"], check_id("root", document["root_id"])
        made_at = Path("/") / document.get("root", layout.root)
        socket = Path("/") / document["tmux_socket"]
        if os.fspath(socket) != document["tmux_socket"]:
            raise ValueError("its tmux_socket is no absolute path")  # noqa: TRY301 - caught below
        terminal = document.get("terminal", DEFAULT_TERMINAL)
        if not isinstance(terminal, str):
            raise ValueError("its terminal is no name")  # noqa: TRY301, TRY004 - the same
        too_new = version > SCHEMA_VERSION
    except (msgspec.DecodeError, ValueError, KeyError, TypeError) as error:
        raise RegistryDamaged(
            f"{path} cannot be read: {error}",
            hint="write back its schema_version, root_id and tmux_socket (a journal in sagas/ "
            "shows them); or, if no agent runs, remove it",
        ) from error
    if too_new:
        raise RegistryTooNew(f"{path} has schema version {version}, we know {SCHEMA_VERSION}")
    _refuse_copy(layout, made_at, data)
    return RootRecord(root_id, socket, terminal)


def _refuse_copy(layout: Layout, made_at: Path, data: bytes) -> None:
    """
    See that this is the root that was made, perhaps under another name by now, and no copy.

    A copy has the original's id, tmux server and journals: who ended an agent in
    one would end the other's.
    """
    if made_at == layout.root:
        return
    original = Layout(made_at).root_file
    try:
        if original.samefile(layout.root_file) or original.read_bytes() != data:
            return
    except OSError:
        return  # It was moved here; or, in a container, has that name outside.
    import shlex  # noqa: PLC0415 - for this error alone

    raise StorageError(
        f"it is a copy of {made_at}, whose agents it would take for its own",
        hint=f"use {made_at}; or, to keep this as a root of its own: "
        f"rm {shlex.quote(str(layout.root_file))} {shlex.quote(str(layout.sagas))}/*.jsonl",
    )


def _fix(layout: Layout, terminal: str) -> RootRecord:
    path = layout.root_file
    with locks.locked(path, timeout_s=_OPEN_TIMEOUT_S, what="the root's first use"):
        chosen = read_root_file(layout)
        if chosen is None:
            durable.remove_stale_temps(path)
            root_id = ids.new_root_id()
            chosen = RootRecord(root_id, _choose_socket(layout.root, root_id), terminal)
            durable.replace(path, _encode(layout.root, chosen))
    return chosen


def _encode(root: Path, record: RootRecord) -> bytes:
    document = {
        "schema_version": SCHEMA_VERSION,
        "root": str(root),
        "root_id": record.root_id,
        "tmux_socket": str(record.tmux_socket),
        "terminal": record.terminal,
        "created_at": timestamp(),
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


# --- the socket ----------------------------------------------------------------------------------


def _choose_socket(root: Path, root_id: str) -> Path:
    """Return an address that fits and works: in the root, or in a private directory of ours."""
    failures: list[str] = []
    for socket in _candidates(root, root_id):
        try:
            if socket.parent != root:
                _make_private(socket.parent)
            _try_address(socket)
        except (StorageError, OSError) as error:
            failures.append(f"{socket}: {error}")
        else:
            return socket
    raise StorageError(
        "no place for the tmux socket: " + "; ".join(failures),
        hint="use a root with a shorter path, on a local file system",
    )


def _candidates(root: Path, root_id: str) -> Iterator[Path]:
    yield root / "tmux.sock"
    # Not XDG_RUNTIME_DIR before /tmp: it is emptied at the last logout, which agents outlive.
    yield Path(f"/tmp/orchestrator-core-{os.geteuid()}/{root_id}.sock")  # noqa: S108 - made private
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(runtime):  # noqa: PTH117 - it may be empty
        yield Path(runtime) / "orchestrator-core" / f"{root_id}.sock"


def _try_address(path: Path) -> None:
    """See that a socket can be had at *path*: it is short enough, and the file system has them."""
    if len(os.fsencode(path)) > SOCKET_PATH_MAX:
        raise StorageError(f"longer than the {SOCKET_PATH_MAX} bytes of a socket's address")
    import socket  # noqa: PLC0415 - once in a root's life

    trial = path.with_name(path.name[:-1])  # no longer than the real one
    durable.remove(trial, durable=False)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.fspath(trial))
    durable.remove(trial, durable=False)


def _make_private(directory: Path) -> None:
    """
    See that *directory*, outside the root, is there and nobody else's business.

    Raises:
        StorageError: It is a symlink, another user's, or open to others.
    """
    durable.make_directory(directory)
    with storage_errors("look at", directory):
        mode = os.lstat(directory).st_mode
    if mode & 0o077:
        raise StorageError(f"{directory} is open to others", hint=f"chmod 700 {directory}")
