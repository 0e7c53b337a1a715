"""
The layout of a root on disk, and how a root is opened.

A *root* is one directory that holds all state of one orchestrator: registries,
journals, and a directory per task. :class:`Layout` returns the paths in it and touches
nothing. :func:`open_root` finds a root, creates what is missing, and returns what the
root's first use fixed for ever: its id, the name of its terminal, and the tmux socket,
which any later process must find again whatever its HOME, its XDG_* or its TMUX_TMPDIR.
:mod:`.discovery` is the search, and :mod:`.socket_path` the choice of the socket.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from orchestrator_core.exceptions import (
    InvalidInput,
    NotFound,
    RegistryDamaged,
    RegistryTooNew,
    StorageError,
)
from orchestrator_core.model.discovery import ENVIRONMENT, find_root
from orchestrator_core.model.socket_path import choose_socket, make_private
from orchestrator_core.system import durable, locks, paths
from orchestrator_core.system.clock import timestamp
from orchestrator_core.system.names import check_id, is_id
from orchestrator_core.system.os_errors import storage_errors

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ENVIRONMENT", "Layout", "Root", "find_root", "open_root", "read_root_file"]

SCHEMA_VERSION = 1
DEFAULT_TERMINAL = "tmux"

_OPEN_TIMEOUT_S = 10.0


class Layout(NamedTuple):
    """The layout of one root. Every id is checked before it becomes part of a path."""

    root: Path

    @property
    def root_file(self) -> Path:
        """The record of what the root's first use fixed."""
        return self.root / "root.json"

    @property
    def global_registry(self) -> Path:
        """The document of live agents, and of totals."""
        return self.root / "registry/GLOBAL_REGISTRY.json"

    @property
    def foreign_database(self) -> Path:
        """The agents of the newest version of the old system, if that uses this root."""
        return self.root / "registry/state.sqlite3"

    @property
    def statistics(self) -> Path:
        """The document of counts: of removed journals, and of sweeps."""
        return self.root / "registry/STATS.json"

    @property
    def sweeper_lock(self) -> Path:
        """The lock of the resident sweeper; this file is never replaced."""
        return self.root / "registry/sweeper.lock"

    @property
    def settings(self) -> Path:
        """The owner's settings, which need not exist."""
        return self.root / "orchestrator.toml"

    @property
    def sagas(self) -> Path:
        """The journals; those of closed sagas are in ``closed/``."""
        return self.root / "sagas"

    def journal(self, agent_id: str) -> Path:
        """Return an agent's journal until its saga is closed."""
        return _agent_path(self.root, "sagas/{}.jsonl", agent_id)

    def task(self, task_id: str) -> Path:
        """Return a task's directory."""
        return self.root / check_id("task", task_id)

    def task_registry(self, task_id: str) -> Path:
        """Return a task's document. A task exists if this file does."""
        return self.task(task_id) / "AGENT_REGISTRY.json"

    def prompt(self, task_id: str, agent_id: str) -> Path:
        """Return an agent's prompt file."""
        return _agent_path(self.task(task_id), "agent_prompt_{}.txt", agent_id)

    def log(self, task_id: str, agent_id: str) -> Path:
        """Return an agent's log: its standard output and error."""
        return _agent_path(self.task(task_id), "logs/{}_stream.jsonl", agent_id)

    def deploy_log(self, task_id: str, agent_id: str) -> Path:
        """Return the record of an agent's deployment."""
        return _agent_path(self.task(task_id), "logs/deploy_{}.json", agent_id)

    def progress(self, task_id: str, agent_id: str) -> Path:
        """Return the file of an agent's progress reports."""
        return _agent_path(self.task(task_id), "progress/{}_progress.jsonl", agent_id)

    def findings(self, task_id: str, agent_id: str) -> Path:
        """Return the file of an agent's findings."""
        return _agent_path(self.task(task_id), "findings/{}_findings.jsonl", agent_id)

    def archive(self, task_id: str) -> Path:
        """Return the directory for the files of a task's ended agents."""
        return self.task(task_id) / "archive"

    def output(self, task_id: str) -> Path:
        """Return the directory for the results of a task's agents."""
        return self.task(task_id) / "output"

    def run_dir(self, task_id: str, agent_id: str) -> Path:
        """Return the directory that an agent's supervisor and deployer share."""
        return _agent_path(self.task(task_id), "run/{}", agent_id)

    def resource_dir(self, agent_id: str) -> Path:
        """Return the directory for what an agent's extra steps provide; it ends with the agent."""
        return _agent_path(self.root, "held/{}", agent_id)

    def task_ids(self) -> list[str]:
        """Return the ids of all tasks, sorted: those with generated names by age."""
        with storage_errors("list", self.root), os.scandir(self.root) as entries:
            return sorted(entry.name for entry in entries if _is_task(entry))


def _agent_path(directory: Path, name: str, agent_id: str) -> Path:
    return directory / name.format(check_id("agent", agent_id))


def _is_task(entry: os.DirEntry[str]) -> bool:
    """Return whether a directory has a task's name and a registry, quarantined or not."""
    if not (entry.name.startswith("TASK-") and is_id(entry.name)):  # Not a copy: TASK-….bak.
        return False
    name = "AGENT_REGISTRY.json"
    if os.path.lexists(f"{entry.path}/{name}"):
        return True
    try:
        return any(other.startswith(f"{name}.damaged-") for other in os.listdir(entry.path))  # noqa: PTH208 - names are enough
    except OSError:
        return False


# --- opening ----------------------------------------------------------------------------------


class Root(NamedTuple):
    """A root in use: its layout, and what its first use fixed."""

    layout: Layout
    root_id: str  #: 8 hexadecimal digits; part of every cookie.
    tmux_socket: Path  #: Absolute, and short enough for a socket's address.
    chosen_by: str = ""  #: What named this root: "the argument", "ORCHESTRATOR_ROOT", …
    terminal: str = DEFAULT_TERMINAL  #: The name of the terminal's class.


def open_root(
    root: str | os.PathLike[str] | None = None,
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    terminal: str | None = None,
    create: bool = True,
) -> Root:
    """
    Find a root as :func:`find_root` does, create what is missing, and return it.

    The first use fixes the root's id, its socket and the name of the *terminal*. Of several
    first uses at once, one does so, and all return the same. A root that is returned can be
    written to: a root that cannot work is refused here, before anything else is created.

    Raises:
        NotFound: There is no root, and without *create* none is created.
        InvalidInput: The root was first used with another terminal than *terminal*.
        StorageError: It is a file, another user's, not writable, open to others, a copy, …
        RegistryDamaged: Its ``root.json`` cannot be read.
        RegistryTooNew: A newer release has used it.
        LockTimeout: Another process has not finished the root's first use in 10 seconds.
    """
    path, chosen_by = find_root(root, env=env, cwd=cwd)
    layout = Layout(path)
    if not (create or _is_root(layout)):
        raise NotFound(
            f"there is no root at {path} (from {chosen_by})",
            hint="is it the right directory? --root DIR or ORCHESTRATOR_ROOT names a root; "
            "the first deployment creates one",
        )
    try:
        _make_root(layout)
        found = read_root_file(layout) or _create_root_file(layout, terminal or DEFAULT_TERMINAL)
        if found.tmux_socket.parent != path:
            make_private(found.tmux_socket.parent)
    except StorageError as error:
        raise StorageError(
            f"root {path} (from {chosen_by}): {error}", hint=error.hint
        ) from error.__cause__
    if terminal not in (None, found.terminal):
        raise InvalidInput(
            f"the root {path} uses the terminal {found.terminal!r}, not {terminal!r}",
            hint="a root keeps the terminal of its first use; use another root",
        )
    return found._replace(chosen_by=chosen_by)


def _is_root(layout: Layout) -> bool:
    """Return whether *layout* was used as a root, also by a legacy system, or has settings."""
    if any(map(os.path.lexists, (layout.root_file, layout.global_registry, layout.settings))):
        return True
    return layout.root.is_dir() and bool(layout.task_ids())


def _make_root(layout: Layout) -> None:
    _check_characters(str(layout.root))
    durable.make_directory(layout.root)
    status = layout.root.stat()
    if status.st_mode & stat.S_IWOTH:
        raise StorageError("every user can write to it", hint=f"chmod o-w {layout.root}")
    if paths.others_can_write(status):
        raise StorageError("its group can write to it", hint=f"chmod g-w {layout.root}")
    if not os.access(layout.root, os.R_OK | os.W_OK | os.X_OK):
        raise StorageError("this user cannot write to it", hint=f"chmod u+rwx {layout.root}")
    for directory in (layout.global_registry.parent, layout.sagas, layout.sagas / "closed"):
        durable.make_directory(directory)


def _check_characters(path: str) -> None:
    """
    Refuse a path that the root's documents, or the lines of its logs, cannot contain.

    Raises:
        StorageError: The path is not UTF-8, or has a control character such as a newline.
    """
    remedy = "use a root whose path is UTF-8 text without control characters"
    try:
        path.encode()
    except UnicodeEncodeError:
        raise StorageError(f"its path {path!r} is not UTF-8 text", hint=remedy) from None
    if any(ord(character) < ord(" ") or character == "\x7f" for character in path):
        raise StorageError(f"its path {path!r} has a control character", hint=remedy)


def _hide_from_git(layout: Layout) -> None:
    """
    Keep a new root out of the repository that it may lie in.

    ``git add -A`` would stage prompts and logs; ``git clean -fd`` and ``git stash -u`` would
    remove the root under its agents.
    """
    with contextlib.suppress(FileExistsError):
        durable.create(layout.root / ".gitignore", b"*\n")


class _RootFile(msgspec.Struct, kw_only=True):
    """``root.json``, as it is on disk."""

    schema_version: int
    root: str = ""  #: Where the root was created.
    root_id: str
    tmux_socket: str
    terminal: str = DEFAULT_TERMINAL
    created_at: str = ""


def read_root_file(layout: Layout) -> Root | None:
    """
    Return the root as its first use fixed it; None if it was never used. Touches nothing.

    Raises:
        RegistryDamaged, RegistryTooNew, StorageError: As in :func:`open_root`.
    """
    path = layout.root_file
    try:
        data = durable.read(path)
    except FileNotFoundError:
        return None
    try:
        file = msgspec.json.decode(data, type=_RootFile)
        check_id("root", file.root_id)
        socket = Path("/") / file.tmux_socket
        if os.fspath(socket) != file.tmux_socket:
            raise ValueError("its tmux_socket is no absolute path")  # noqa: TRY301 - caught below
    except (msgspec.DecodeError, ValueError) as error:
        raise RegistryDamaged(
            f"{path} cannot be read: {error}",
            hint="write back its schema_version, root_id and tmux_socket (a journal in sagas/ "
            "shows them); or, if no agent runs, remove it",
        ) from error
    if file.schema_version > SCHEMA_VERSION:
        raise RegistryTooNew(
            f"{path} has schema version {file.schema_version}, "
            f"and {SCHEMA_VERSION} is the newest known here"
        )
    _refuse_copy(layout, Path("/") / (file.root or layout.root), data)
    return Root(layout, file.root_id, socket, terminal=file.terminal)


def _refuse_copy(layout: Layout, made_at: Path, data: bytes) -> None:
    """
    Refuse a copy of the root that was created at *made_at*. A root may be moved or renamed.

    A copy has the original's id, tmux server and journals: the end of an agent in the
    copy would end the original's agent.
    """
    if made_at == layout.root:
        return
    original = Layout(made_at).root_file
    try:
        if original.samefile(layout.root_file) or original.read_bytes() != data:
            return
    except OSError:
        return  # It was moved here, or has that name outside a container.
    import shlex  # noqa: PLC0415 - for this error alone

    raise StorageError(
        f"it is a copy of {made_at}, and would end that root's agents",
        hint=f"use {made_at}; or, to make this copy a separate root: "
        f"rm {shlex.quote(str(layout.root_file))} {shlex.quote(str(layout.sagas))}/*.jsonl",
    )


def _create_root_file(layout: Layout, terminal: str) -> Root:
    path = layout.root_file
    with locks.locked(path, timeout_s=_OPEN_TIMEOUT_S, what="the root's first use"):
        found = read_root_file(layout)
        if found is not None:
            return found
        durable.remove_stale_temps(path)
        root_id = os.urandom(4).hex()
        socket = choose_socket(layout.root, root_id)
        _hide_from_git(layout)
        file = _RootFile(
            schema_version=SCHEMA_VERSION,
            root=str(layout.root),
            root_id=root_id,
            tmux_socket=str(socket),
            terminal=terminal,
            created_at=timestamp(),
        )
        durable.replace(path, msgspec.json.format(msgspec.json.encode(file), indent=2) + b"\n")
        return Root(layout, root_id, socket, terminal=terminal)
