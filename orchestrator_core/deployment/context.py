"""
What everything acts on: one root's places, terminal, processes and registries.

Wired once, by the composition root. The terminal and the processes are made
when they are first asked for: reporting progress needs neither, and should not
pay for their imports.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from orchestrator_core.model.limits import Limits
from orchestrator_core.registry import GLOBAL, TASK, Registry

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator_core.model.layout import Root
    from orchestrator_core.model.outcome import EndReport
    from orchestrator_core.model.settings import Settings
    from orchestrator_core.reconcile.legacy.server_protocol import LegacyServer
    from orchestrator_core.registry import Quarantined
    from orchestrator_core.registry.snapshot_cache import SnapshotCache
    from orchestrator_core.saga import Unwind
    from orchestrator_core.system.processes.protocol import GracePeriods, Processes
    from orchestrator_core.system.terminal import Terminal

_CACHE_SIZE = 100  #: Of so many tasks the registry is kept at hand.


class RootContext:
    """All of it, for one root."""

    def __init__(
        self,
        root: Root,
        *,
        terminal: Terminal | None = None,
        processes: Processes | None = None,
        limits: Limits | None = None,
        patience: GracePeriods | None = None,
        lock_timeout_s: float = 10.0,
        terminal_timeout_s: float = 10.0,
    ) -> None:
        self.root_id = root.root_id
        self.layout = root.layout
        self.socket = root.tmux_socket
        self.limits = limits or Limits.from_environment()
        self.lock_timeout_s = lock_timeout_s
        #: Registries that were quarantined since this root was opened.
        self.quarantined: list[Quarantined] = []
        self._terminal = terminal
        self._processes = processes
        self._patience = patience
        self._terminal_timeout_s = terminal_timeout_s
        self._registries: dict[str, Registry] = {}
        #: What a task's registry is rebuilt from when it was damaged; set by the front door.
        self.rebuild_task: Callable[[str], dict[str, Any]] | None = None
        #: The same, for the global one.
        self.rebuild_global: Callable[[], dict[str, Any]] | None = None
        #: How a child is ended with its parent; set by the lifecycle, which ends all agents.
        self.end_child: Callable[[str, Unwind], EndReport] | None = None

    @functools.cached_property
    def terminal(self) -> Terminal:
        """Where sessions are."""
        if self._terminal is not None:
            return self._terminal
        from orchestrator_core.system.tmux import TmuxTerminal  # noqa: PLC0415 - imports libtmux

        return TmuxTerminal(self.socket, timeout_s=self._terminal_timeout_s)

    @functools.cached_property
    def legacy_server(self) -> LegacyServer:
        """Where the sessions of the system are that this one replaces. A fake brings its own."""
        given: LegacyServer | None = getattr(self._terminal, "legacy_server", None)
        if given is not None:
            return given
        from orchestrator_core.reconcile.legacy.default_server import DefaultServer  # noqa: PLC0415 - as above

        return DefaultServer(timeout_s=self._terminal_timeout_s)

    @functools.cached_property
    def processes(self) -> Processes:
        """Who is alive. A fake terminal brings its own."""
        given = self._processes or getattr(self._terminal, "processes", None)
        if given is not None:
            return given
        from orchestrator_core.system.processes import LocalProcesses  # noqa: PLC0415 - as above

        return LocalProcesses()

    @functools.cached_property
    def patience(self) -> GracePeriods:
        """How long an agent is given at its end."""
        from orchestrator_core.system.processes.protocol import GracePeriods  # noqa: PLC0415 - as above

        return self._patience or GracePeriods()

    @functools.cached_property
    def settings(self) -> Settings:
        """What the root's owner has settled in its ``orchestrator.toml``; read once."""
        from orchestrator_core.model import settings  # noqa: PLC0415 - as above

        return settings.read(self.layout.root)

    @functools.cached_property
    def snapshots(self) -> SnapshotCache:
        """What was seen of the tasks at the last sweep."""
        from orchestrator_core.registry.snapshot_cache import SnapshotCache  # noqa: PLC0415 - as above

        return SnapshotCache()

    @functools.cached_property
    def global_registry(self) -> Registry:
        """The document of the living, and of totals."""
        return Registry(
            self.layout.global_registry,
            schema=GLOBAL,
            rebuild=self.rebuild_global,
            on_damage=self.quarantined.append,
            lock_timeout_s=self.lock_timeout_s,
        )

    def task_registry(self, task_id: str) -> Registry:
        """Return the document of one task."""
        known = self._registries.get(task_id)
        if known is None:
            if len(self._registries) >= _CACHE_SIZE:
                self._registries.clear()
            known = self._registries[task_id] = self._task_registry(task_id)
        return known

    def _task_registry(self, task_id: str) -> Registry:
        rebuild = self.rebuild_task
        return Registry(
            self.layout.task_registry(task_id),
            schema=TASK,
            rebuild=None if rebuild is None else functools.partial(rebuild, task_id),
            on_damage=self.quarantined.append,
            lock_timeout_s=self.lock_timeout_s,
        )
