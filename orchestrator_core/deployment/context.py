"""
The context of one root: its layout, terminal, processes, registries and settings.

The facade creates it, with everything that can be swapped as a constructor argument. The
terminal is the class that ``root.json`` names, unless the facade passes one.
Each part is created when it is first used: a progress report needs few of them, and
does not pay for the imports of the others.
"""

from __future__ import annotations

import contextlib
import functools
import os
from typing import TYPE_CHECKING, Any

from orchestrator_core.exceptions import (
    InvalidInput,
    OrchestratorError,
    StorageError,
    TerminalUnavailable,
)
from orchestrator_core.model.layout import DEFAULT_TERMINAL
from orchestrator_core.model.limits import Limits
from orchestrator_core.registry import GLOBAL, TASK, Registry
from orchestrator_core.system import import_path
from orchestrator_core.system.lazy import LazyAttribute
from orchestrator_core.system.seconds import check_seconds

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from orchestrator_core.deployment.predecessor import Predecessor
    from orchestrator_core.model.layout import Root
    from orchestrator_core.model.settings import Settings
    from orchestrator_core.model.spec import AgentSpec
    from orchestrator_core.registry import Quarantined, Schema
    from orchestrator_core.registry.snapshot_cache import SnapshotCache
    from orchestrator_core.saga.store import JournalStore
    from orchestrator_core.system.processes.protocol import ExitRecord, GracePeriods, Processes
    from orchestrator_core.system.terminal import Terminal

_CACHE_SIZE = 100  #: Tasks whose registry object is cached.


class RootContext:
    """What all operations on one root share."""

    def __init__(  # noqa: PLR0913 - each part can be swapped by itself
        self,
        root: Root,
        *,
        terminal: Terminal | None = None,
        processes: Processes | None = None,
        limits: Limits | None = None,
        patience: GracePeriods | None = None,
        predecessor: Callable[[RootContext], Predecessor] | None = None,
        rebuild_task: Callable[[str], dict[str, Any]] | None = None,
        rebuild_global: Callable[[], dict[str, Any]] | None = None,
        lock_timeout_s: float = 10.0,
        terminal_timeout_s: float = 10.0,
    ) -> None:
        """
        Create the context of *root*.

        *predecessor* creates the access to another system's agents. *rebuild_task* and
        *rebuild_global* return the document that replaces a damaged registry.
        """
        self.root_id = root.root_id
        self.layout = root.layout
        self.socket = root.tmux_socket
        self.limits = limits or Limits.from_environment()
        self.lock_timeout_s = check_seconds("lock_timeout_s", lock_timeout_s)
        self.terminal_timeout_s = check_seconds("terminal_timeout_s", terminal_timeout_s)
        self.witnessed: dict[str, ExitRecord] = {}  #: By this process, as an agent's supervisor.
        self.quarantined: list[Quarantined] = []  #: Damaged registries, since this was created.
        #: The registries that the last listing could not read, and why, by path.
        self.unreadable: dict[str, str] = {}
        self._terminal = terminal
        self._terminal_name = root.terminal
        self._processes = processes
        self._patience = patience
        self._predecessor = predecessor
        self._rebuild_task = rebuild_task
        self._rebuild_global = rebuild_global
        self._registries: dict[str, Registry] = {}

    @LazyAttribute
    def terminal(self) -> Terminal:
        """
        The terminal that was passed in, or else the one that ``root.json`` names.

        Raises:
            TerminalUnavailable: The class that ``root.json`` names cannot be used.
        """
        if self._terminal is not None:
            return self._terminal
        if self._terminal_name != DEFAULT_TERMINAL:
            import_path.extend(self._import_places())
        return load_terminal(self._terminal_name, self.socket, timeout_s=self.terminal_timeout_s)

    def check_terminal(self) -> None:
        """
        Check that the terminal can be used, by this process and by the unwinder.

        Raises:
            TerminalUnavailable: It cannot.
        """
        self.terminal.check()
        module = self._terminal_name.partition(":")[0]
        if self._terminal is not None or self._terminal_name == DEFAULT_TERMINAL:
            return
        if not import_path.is_importable(module, self._import_places()):
            raise TerminalUnavailable(
                f"the unwinder cannot import {module!r}, the module of the terminal in root.json: "
                "it is in no installed package, and in no directory of [steps] path",
                hint='install it, or in orchestrator.toml: [steps] path = ["/its/directory"]',
            )

    def _import_places(self) -> tuple[str, ...]:
        """Return the directories of ``[steps] path``; none if the settings cannot be read."""
        try:
            return self.settings.steps.path
        except OrchestratorError:
            return ()

    @LazyAttribute
    def processes(self) -> Processes:
        """The processes that were passed in, the terminal's own, or this machine's."""
        given = self._processes
        # Plain tmux has none of its own, and is not imported to find that out.
        if given is None and (self._terminal, self._terminal_name) != (None, DEFAULT_TERMINAL):
            given = getattr(self.terminal, "processes", None)
        if given is not None:
            return given
        from orchestrator_core.system.processes import LocalProcesses  # noqa: PLC0415

        return LocalProcesses()

    @LazyAttribute
    def patience(self) -> GracePeriods:
        """The time that an agent gets at its end."""
        from orchestrator_core.system.processes.protocol import GracePeriods  # noqa: PLC0415

        return self._patience or GracePeriods()

    def linger_s(self, spec: AgentSpec) -> float:
        """
        Return how many seconds an agent may go on after it has reported its own end.

        Settings that cannot be read set nothing: a deployment does not depend on them.
        """
        chosen = self.patience.linger_s if spec.linger_s is None else spec.linger_s
        # Most roots have no settings, and their module takes long to import.
        if chosen is None and os.path.lexists(self.layout.settings):
            with contextlib.suppress(InvalidInput, StorageError):
                chosen = self.settings.agents.linger_s
        if chosen is None:
            chosen = self.patience.default_linger_s(with_preset=spec.preset is not None)
        return chosen

    @LazyAttribute
    def predecessor(self) -> Predecessor:
        """The agents of another system in this root."""
        from orchestrator_core.deployment.predecessor import Predecessor  # noqa: PLC0415

        return Predecessor() if self._predecessor is None else self._predecessor(self)

    @LazyAttribute
    def settings(self) -> Settings:
        """The settings in the root's ``orchestrator.toml``, read once."""
        from orchestrator_core.model import settings  # noqa: PLC0415

        return settings.read(self.layout.root)

    @LazyAttribute
    def journals(self) -> JournalStore:
        """The journals of the root's sagas, for reading."""
        from orchestrator_core.saga.store import JournalStore  # noqa: PLC0415

        return JournalStore.open_directory(self.layout.sagas)

    @LazyAttribute
    def snapshots(self) -> SnapshotCache:
        """The task registries as the last sweep read them."""
        from orchestrator_core.registry.snapshot_cache import SnapshotCache  # noqa: PLC0415

        return SnapshotCache()

    @LazyAttribute
    def global_registry(self) -> Registry:
        """The document of live agents and totals."""
        return self._registry(self.layout.global_registry, GLOBAL, self._rebuild_global)

    def task_registry(self, task_id: str) -> Registry:
        """Return the document of one task."""
        known = self._registries.get(task_id)
        if known is None:
            if len(self._registries) >= _CACHE_SIZE:
                self._registries.clear()
            rebuild = self._rebuild_task and functools.partial(self._rebuild_task, task_id)
            path = self.layout.task_registry(task_id)
            known = self._registries[task_id] = self._registry(path, TASK, rebuild)
        return known

    def _registry(
        self, path: Path, schema: Schema, rebuild: Callable[[], dict[str, Any]] | None
    ) -> Registry:
        return Registry(
            path,
            schema=schema,
            rebuild=rebuild,
            on_damage=self.quarantined.append,
            lock_timeout_s=self.lock_timeout_s,
        )


# --- the choice of a root's terminal --------------------------------------------------------------

_METHODS = ("check", "start", "inspect", "kill", "sessions")
_TERMINALS = {DEFAULT_TERMINAL: "orchestrator_core.system.tmux:TmuxTerminal"}


def load_terminal(name: str, socket: Path, *, timeout_s: float) -> Terminal:
    """
    Return a new instance of the terminal class that ``root.json`` names under ``terminal``.

    ``tmux`` is the default. Any other class is named by its path, ``package.module:Class``. It
    is called with the root's socket path and ``timeout_s``, and implements
    :class:`~orchestrator_core.system.terminal.Terminal`. Its optional attribute ``processes``
    replaces this machine's processes. Every process that opens the root imports it, also the
    supervisor's unwinder, which imports installed packages and the directories of ``[steps]
    path`` only.

    Raises:
        TerminalUnavailable: The class cannot be imported, or not be called.
    """
    import pkgutil  # noqa: PLC0415 - a report needs no terminal

    try:
        found = pkgutil.resolve_name(_TERMINALS.get(name, name))
        # An agent may be able to write root.json: nothing but a terminal's class is called.
        terminal: Terminal = _check_class(found)(socket, timeout_s=timeout_s)
    except Exception as error:
        raise TerminalUnavailable(
            f"the terminal {name!r}, which root.json names, cannot be used: "
            f"{type(error).__name__}: {error}",
            hint=f"name an importable class as package.module:Class, or {DEFAULT_TERMINAL!r}",
        ) from error
    return terminal


def _check_class(found: object) -> Callable[..., Terminal]:
    if not isinstance(found, type) or not all(hasattr(found, each) for each in _METHODS):
        raise TypeError(f"it is no class with the methods {', '.join(_METHODS)}")
    return found
