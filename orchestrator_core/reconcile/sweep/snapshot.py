"""
One snapshot of sessions, processes, registries, files and open journals.

Its cost does not depend on the number of agents: one call to tmux, one pass over the
processes, one listing of each directory, one read of each registry and open journal. A
source that cannot be read is None and is named in ``unknown``; nothing is compared with it.

The other sources are read **first**, the journals **after** them. A journal is durable before
its saga takes anything, and closes when the saga holds nothing. So whatever the snapshot
shows is in a journal that was open later; or the saga has closed in between. For the second
case :mod:`.run` takes a second snapshot. A finding from a journal alone needs none: see
:mod:`.saga_snapshot`.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import attrs

from orchestrator_core.exceptions import OrchestratorError
from orchestrator_core.model.ids import process_cookie
from orchestrator_core.model.status import is_active
from orchestrator_core.reconcile.removed_roots import ANY_COOKIE, find_removed
from orchestrator_core.reconcile.sweep import named_files, unreachable
from orchestrator_core.reconcile.sweep.findings import FindingSubject
from orchestrator_core.reconcile.sweep.saga_snapshot import read_sagas
from orchestrator_core.registry.snapshot_cache import RegistrySnapshot, read_snapshot
from orchestrator_core.system.names import is_id

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

    from orchestrator_core.deployment.context import RootContext
    from orchestrator_core.reconcile.removed_roots import RemovedAgent
    from orchestrator_core.reconcile.sweep.named_files import NamedFile
    from orchestrator_core.reconcile.sweep.saga_snapshot import SagaState
    from orchestrator_core.registry.document import Document
    from orchestrator_core.saga import Sagas
    from orchestrator_core.system.processes.protocol import TaggedProcess
    from orchestrator_core.system.terminal import Session

P = ParamSpec("P")
T = TypeVar("T")

_DAMAGED_REGISTRY = ".json.damaged-"


@attrs.frozen
class RegistryEntry(FindingSubject):
    """An agent as a registry shows it: a task's record, or the global registry's entry."""

    agent_id: str
    task_id: str
    subject: str
    record: Mapping[str, Any]


@attrs.frozen(kw_only=True)
class Snapshot:
    """What one snapshot shows. A source that could not be read is None, or has no document."""

    prefix: str  #: Of every cookie of this root.
    boot_id: str | None = None
    sagas: Mapping[str, SagaState] | None = None  #: The open sagas, by id.
    sessions: tuple[Session, ...] | None = None
    processes: tuple[TaggedProcess, ...] | None = None
    tasks: Mapping[str, RegistrySnapshot] = attrs.field(factory=dict)  #: Each task's registry.
    global_registry: RegistrySnapshot
    files: tuple[NamedFile, ...] = ()
    quarantined: tuple[str, ...] = ()  #: The damaged files that were set aside.
    removed: Mapping[str, bool] = attrs.field(factory=dict)
    """The tasks of open sagas whose registry was removed; whether the directory is there."""
    agents_with_closed_saga: frozenset[str] = frozenset()  #: Of those without an open one.
    of_removed_roots: tuple[RemovedAgent, ...] = ()  #: The agents of this user's removed roots.
    unknown: tuple[str, ...] = ()  #: The sources that could not be read, and why.

    def agent_for_cookie(self, cookie: str | None) -> str | None:
        """Return the agent of a cookie; None if the cookie is not of this root."""
        if cookie is None or not cookie.startswith(self.prefix):
            return None
        return cookie.removeprefix(self.prefix) or None

    @functools.cached_property
    def session_owners(self) -> frozenset[str]:
        """The owners of the sessions, by their marks."""
        return frozenset(each.owner for each in self.sessions or () if each.owner is not None)

    @functools.cached_property
    def session_panes(self) -> frozenset[int]:
        """The pids of the sessions' panes."""
        return frozenset(session.pane_pid for session in self.sessions or ())

    @functools.cached_property
    def records(self) -> dict[str, Mapping[str, Mapping[str, Any]]]:
        """All tasks' records, by task and by agent."""
        return {task_id: registry.records for task_id, registry in self.tasks.items()}

    @property
    def registries(self) -> Iterator[tuple[FindingSubject, RegistrySnapshot]]:
        """Each registry, with the subject of a finding about it."""
        for task_id, registry in self.tasks.items():
            yield FindingSubject(None, task_id, f"the registry of {task_id}"), registry
        yield FindingSubject(None, None, "the global registry"), self.global_registry

    def document(self, task_id: str) -> Document | None:
        """Return a task's document; None if there is none, or it could not be read."""
        return self.tasks[task_id].document if task_id in self.tasks else None

    @functools.cached_property
    def live_entries(self) -> tuple[RegistryEntry, ...]:
        """The records that show an agent as alive, and all entries of the global registry."""
        records = (
            RegistryEntry(agent_id, task_id, f"record of {agent_id} in {task_id}", record)
            for task_id, agents in self.records.items()
            for agent_id, record in agents.items()
            if is_active(record.get("status"))
        )
        return (*records, *self.global_entries.values())

    @functools.cached_property
    def global_entries(self) -> dict[str, RegistryEntry]:
        """The entries of the global registry, by agent. It lists live agents only."""
        subject = "entry of {} in the global registry"
        return {
            name: RegistryEntry(name, str(entry.get("task_id")), subject.format(name), entry)
            for name, entry in (self.global_registry.document or {}).get("agents", {}).items()
            if is_id(name)
        }

    @functools.cached_property
    def agents_with_saga(self) -> frozenset[str]:
        """The agents that an open saga accounts for."""
        return frozenset(state.agent_id for state in (self.sagas or {}).values())

    @functools.cached_property
    def agents_without_saga(self) -> frozenset[str]:
        """The agents that some source shows, and that no open saga accounts for."""
        cookies = [session.owner for session in self.sessions or ()]
        cookies += [process.cookie for process in self.processes or ()]
        agents = {agent for agent in map(self.agent_for_cookie, cookies) if agent is not None}
        agents |= {file.agent_id for file in self.files}
        agents |= {entry.agent_id for entry in self.live_entries}
        return frozenset(agents - self.agents_with_saga)


def take_snapshot(context: RootContext, sagas: Sagas) -> Snapshot:
    """Take a snapshot. Nothing is changed."""
    return _Snapshotter(context, sagas).take()


class _Snapshotter:
    """Takes one snapshot."""

    def __init__(self, context: RootContext, sagas: Sagas) -> None:
        self._context = context
        self._journals = sagas.journals
        self._closed = sagas.journals.closed
        self._prefix = process_cookie(context.root_id, "x")[:-1]
        self._unknown: list[str] = []
        self._quarantined: list[str] = []

    def take(self) -> Snapshot:
        context, read = self._context, self._try
        sessions = read("the sessions", context.terminal.sessions)
        tagged = read("the processes", context.processes.find_tagged, ANY_COOKIE)
        processes, others = self._partition(tagged)
        task_ids = read("the tasks", context.layout.task_ids)
        files = self._files(task_ids or ())
        global_registry = read("the registries", read_snapshot, context.global_registry)
        tasks = read("the registries", self._task_registries, task_ids or ())
        states = read("the journals", self._sagas, processes, sessions)
        if states is not None:
            files += read("the cgroups", self._cgroups, states.values()) or ()
        identity = read("the machine", context.processes.identify, os.getpid())
        return self._with_details(
            Snapshot(
                prefix=self._prefix,
                boot_id=None if identity is None else identity.boot_id,
                sagas=states,
                sessions=sessions,
                processes=processes,
                tasks=tasks or {},
                global_registry=global_registry or RegistrySnapshot(),
                files=tuple(files),
                quarantined=tuple(self._quarantined),
                of_removed_roots=read("other processes", find_removed, others) or (),
            )
        )

    def _partition(
        self, tagged: tuple[TaggedProcess, ...] | None
    ) -> tuple[tuple[TaggedProcess, ...] | None, list[TaggedProcess]]:
        """Return the processes of this root, and those of other roots."""
        if tagged is None:
            return None, []
        own = tuple(each for each in tagged if each.cookie.startswith(self._prefix))
        return own, [each for each in tagged if not each.cookie.startswith(self._prefix)]

    def _try(
        self, source: str, read: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T | None:
        """Return what *read* returns, or None with a note in ``unknown`` if it fails."""
        try:
            return read(*args, **kwargs)
        except (OrchestratorError, OSError) as error:
            self._unknown.append(f"{source}: {error}")
            return None

    # --- other sources -------------------------------------------------------------------------

    def _files(self, task_ids: Collection[str]) -> list[NamedFile]:
        layout = self._context.layout
        files: list[NamedFile] = []
        damaged = [(layout.sagas, ".damaged"), (layout.global_registry.parent, _DAMAGED_REGISTRY)]
        for task_id in task_ids:
            source = f"the files of {task_id}"
            files += self._try(source, named_files.scan_task, layout, task_id) or ()
            damaged.append((layout.task(task_id), _DAMAGED_REGISTRY))
        for directory, mark in damaged:
            self._quarantined += (
                self._try("the files", named_files.quarantined, directory, mark) or ()
            )
        return files

    def _cgroups(self, states: Collection[SagaState]) -> list[NamedFile]:
        here = self._context.processes.cgroup_path(f"{self._prefix}x")
        known = {state.session.cgroup for state in states if state.session is not None}
        parents = {str(Path(path).parent) for path in (*known, here) if path is not None}
        return named_files.scan_cgroups(parents, self._prefix)

    def _task_registries(self, task_ids: Collection[str]) -> dict[str, RegistrySnapshot]:
        registries = {task_id: self._context.task_registry(task_id) for task_id in task_ids}
        return self._context.snapshots.read_all(registries)

    # --- journals ------------------------------------------------------------------------------

    def _sagas(
        self, processes: Collection[TaggedProcess] | None, sessions: Collection[Session] | None
    ) -> dict[str, SagaState]:
        running = (
            None if processes is None else frozenset(process.identity for process in processes)
        )
        names = None if sessions is None else frozenset(session.name for session in sessions)
        return read_sagas(self._journals, self._context.processes, running, names)

    def _removed(self, task_ids: Iterable[str | None]) -> Iterator[tuple[str, bool]]:
        """Yield the tasks whose registry's file is gone, and whether their directory is there."""
        for task_id in task_ids:
            if not is_id(task_id) or task_id is None:
                continue
            path = self._context.layout.task_registry(task_id)
            try:
                os.lstat(path)
            except FileNotFoundError:
                # A quarantined registry is damaged, not removed.
                if not self._context.task_registry(task_id).quarantined():
                    yield task_id, path.parent.is_dir()
            except OSError:
                continue  # It is unknown, and reported as such.

    def _with_details(self, snapshot: Snapshot) -> Snapshot:
        """Add what is only of interest for agents without an open saga."""
        agents = snapshot.agents_without_saga
        closed = (agent for agent in agents if os.path.lexists(self._closed / f"{agent}.jsonl"))
        files = (
            named_files.inspect(file) if file.agent_id in agents else file
            for file in snapshot.files
        )
        states = (snapshot.sagas or {}).values()
        sagas = (state.unknown for state in states if state.unknown)
        registries = (
            f"{about.subject}: {registry.unreadable}"
            for about, registry in snapshot.registries
            if registry.unreadable
        )
        return attrs.evolve(
            snapshot,
            files=tuple(files),
            removed=dict(self._removed({state.task_id for state in states} - {None})),
            agents_with_closed_saga=frozenset(closed),
            unknown=(
                *(*self._unknown, *registries, *sagas),
                *unreachable.describe(states, self._context.socket),
            ),
        )
