"""
One look at the world, whatever the number of agents.

It asks once: tmux for its sessions, the kernel for the processes with a cookie of
this root, each registry, each directory, each open journal. A source that cannot
be asked is None, and told of in ``unknown``; what would be compared with it is not.

Things are looked at **first**, journals **after** them. A journal is durable
before its saga takes anything, and is closed only when nothing is held any more.
So whatever was seen is in a journal that was open a moment later; or its saga has
closed in between, and then a second look finds the thing gone, or its record
ended. :mod:`.settling` takes that second look, at what a first one has put in doubt.

What a journal tells by itself needs none: see :mod:`.journals`. An agent that is
being deployed or ended has an owner, who holds its lock. That a supervisor is
dead is asked after its journal said that it lives, and the dead do not come back.
"""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING, TypeVar

import attrs

from orchestrator_core.exceptions import OrchestratorError
from orchestrator_core.model.ids import process_cookie
from orchestrator_core.reconcile.sweep import named_files as traces
from orchestrator_core.reconcile.sweep import saga_snapshot as journals
from orchestrator_core.reconcile.sweep.candidates import EVERYTHING, Source
from orchestrator_core.reconcile.sweep.registry_entries import living_entries, living_records
from orchestrator_core.registry.snapshot_cache import RegistrySnapshot, read_snapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from orchestrator_core.deployment.context import RootContext
    from orchestrator_core.reconcile.sweep.named_files import Trace
    from orchestrator_core.reconcile.sweep.registry_entries import Entered, Records
    from orchestrator_core.reconcile.sweep.saga_snapshot import Seen
    from orchestrator_core.saga import Sagas
    from orchestrator_core.system.processes.protocol import TaggedProcess
    from orchestrator_core.system.terminal import Session

T = TypeVar("T")


def _of_the_present(look: Look) -> Records:
    past = {task_id for task_id, registry in (look.tasks or {}).items() if registry.all_ended}
    return {task_id: agents for task_id, agents in look.records.items() if task_id not in past}


@attrs.frozen(kw_only=True)
class Look:
    """What was seen. None: it was not asked, or could not be."""

    root_id: str
    boot_id: str | None = None
    sagas: Mapping[str, Seen] | None  #: The open ones, by id.
    sessions: tuple[Session, ...] | None = None
    processes: tuple[TaggedProcess, ...] | None = None
    tasks: Mapping[str, RegistrySnapshot] | None = None  #: Each task's registry.
    living: RegistrySnapshot | None = None  #: The global registry.
    traces: tuple[Trace, ...] | None = None
    kept_aside: tuple[str, ...] = ()  #: Files that were damaged, and set aside.
    closed: frozenset[str] = frozenset()  #: Of the agents in question: a closed journal tells.
    telling: frozenset[str] = frozenset()  #: Paths of files whose content names their agent.
    foreign: frozenset[str] = frozenset()  #: Paths that are another user's, or lead elsewhere.
    unknown: tuple[str, ...] = ()  #: What could not be asked, and why.
    records: Records = attrs.field(
        default=attrs.Factory(
            lambda look: {task_id: seen.records for task_id, seen in (look.tasks or {}).items()},
            takes_self=True,
        )
    )
    #: Of those tasks only that have any but agents that ended well.
    present: Records = attrs.field(default=attrs.Factory(_of_the_present, takes_self=True))
    #: The records, and the global registry's entries, that show an agent as living.
    recorded: tuple[Entered, ...] = attrs.field(
        default=attrs.Factory(lambda look: tuple(living_records(look.present)), takes_self=True)
    )
    listed: tuple[Entered, ...] = attrs.field(
        default=attrs.Factory(lambda look: tuple(living_entries(look.living)), takes_self=True)
    )

    @functools.cached_property
    def prefix(self) -> str:
        """What every cookie of this root begins with."""
        return prefix_of(self.root_id)

    def agent_of(self, cookie: str | None) -> str | None:
        """Return whose cookie it is; None if it is not one of this root's."""
        if cookie is None or not cookie.startswith(self.prefix):
            return None
        return cookie.removeprefix(self.prefix) or None

    @functools.cached_property
    def owners(self) -> frozenset[str | None]:
        """What the sessions are marked with."""
        return frozenset(session.owner for session in self.sessions or ())

    @functools.cached_property
    def accounted(self) -> frozenset[str]:
        """The agents that an open saga accounts for."""
        return frozenset(seen.agent_id for seen in (self.sagas or {}).values())


def prefix_of(root_id: str) -> str:
    """Return what every cookie of a root begins with."""
    return process_cookie(root_id, "x")[:-1]


def look(context: RootContext, sagas: Sagas, sources: Collection[Source] = EVERYTHING) -> Look:
    """Look at the world, as far as *sources* go, and at the journals."""
    return _Looking(context, sagas).at(sources)


class _Looking:
    """One look under way."""

    def __init__(self, context: RootContext, sagas: Sagas) -> None:
        self._context = context
        self._opened = sagas.opened
        self._closed = sagas.journals.closed
        self._prefix = prefix_of(context.root_id)
        self._unknown: list[str] = []
        self._kept_aside: list[str] = []

    def at(self, sources: Collection[Source]) -> Look:
        def if_asked(source: Source, what: str, ask: Callable[[], T]) -> T | None:
            return self._ask(what, ask) if source in sources else None

        context = self._context
        sessions = if_asked(Source.SESSIONS, "the sessions", context.terminal.sessions)
        processes = if_asked(
            Source.PROCESSES, "the processes", lambda: context.processes.find_tagged(self._prefix)
        )
        task_ids = self._ask("the tasks", context.layout.task_ids) if sources else None
        named = if_asked(Source.FILES, "the files", lambda: self._traces(task_ids or []))
        living = if_asked(Source.REGISTRIES, "the registries", self._living)
        tasks = if_asked(Source.REGISTRIES, "the registries", lambda: self._tasks(task_ids))
        opened = self._ask("the journals", lambda: self._sagas(processes, sessions))
        if opened is not None and named is not None:
            named += self._ask("the cgroups", lambda: self._cgroups(opened.values())) or []
        seen = Look(
            root_id=context.root_id,
            boot_id=self._ask("the machine", self._boot_id),
            sagas=opened,
            sessions=sessions,
            processes=processes,
            tasks=tasks,
            living=living,
            traces=None if named is None else tuple(named),
            kept_aside=tuple(self._kept_aside),
        )
        doubted = _in_doubt(seen)
        return attrs.evolve(
            seen,
            closed=frozenset(filter(self._is_closed, doubted)),
            telling=self._those(seen, doubted, traces.says_whose),
            foreign=self._those(seen, doubted, traces.is_foreign),
            unknown=tuple(self._unknown),
        )

    def _ask(self, what: str, ask: Callable[[], T]) -> T | None:
        try:
            return ask()
        except (OrchestratorError, OSError) as error:
            self._unknown.append(f"{what}: {error}")
            return None

    # --- things --------------------------------------------------------------------------------

    def _traces(self, task_ids: Iterable[str]) -> list[Trace]:
        found: list[Trace] = []
        for task_id in task_ids:
            below = self._ask(
                f"the files of {task_id}",
                lambda task_id=task_id: traces.of_task(self._context.layout, task_id),  # type: ignore[misc]  # it is the loop's
            )
            if below is not None:
                found += below.traces
                self._kept_aside += below.kept_aside
        layout = self._context.layout
        self._kept_aside += traces.damaged_below(layout.sagas, ".damaged")
        self._kept_aside += traces.damaged_below(layout.global_registry.parent, ".json.damaged-")
        return found

    def _cgroups(self, opened: Iterable[Seen]) -> list[Trace]:
        here = self._context.processes.cgroup_path(f"{self._prefix}x")
        known = {seen.session.cgroup for seen in opened if seen.session is not None}
        parents = {os.path.dirname(path) for path in (*known, here) if path is not None}  # noqa: PTH120 - strings
        return traces.cgroups(parents, self._prefix)

    def _living(self) -> RegistrySnapshot:
        return self._told(read_snapshot(self._context.global_registry), "the global registry")

    def _tasks(self, task_ids: Iterable[str] | None) -> dict[str, RegistrySnapshot] | None:
        if task_ids is None:
            return None
        registries = {task_id: self._context.task_registry(task_id) for task_id in task_ids}
        found = self._context.snapshots.at(registries)
        return {
            task_id: self._told(seen, f"the registry of {task_id}")
            for task_id, seen in found.items()
        }

    def _told(self, seen: RegistrySnapshot, what: str) -> RegistrySnapshot:
        if seen.unreadable:
            self._unknown.append(f"{what}: {seen.unreadable}")
        return seen

    # --- journals ------------------------------------------------------------------------------

    def _sagas(
        self, processes: Iterable[TaggedProcess] | None, sessions: Iterable[Session] | None
    ) -> dict[str, Seen]:
        running = None if processes is None else frozenset(marked.identity for marked in processes)
        named = None if sessions is None else frozenset(session.name for session in sessions)
        found = journals.read(self._opened, self._context.processes, running, named)
        self._unknown += [seen.unknown for seen in found.values() if seen.unknown]
        return found

    def _is_closed(self, agent_id: str) -> bool:
        return os.path.lexists(self._closed / f"{agent_id}.jsonl")

    def _those(
        self, seen: Look, doubted: Collection[str], are: Callable[[Trace], bool]
    ) -> frozenset[str]:
        return frozenset(
            trace.path for trace in seen.traces or () if trace.agent_id in doubted and are(trace)
        )

    def _boot_id(self) -> str | None:
        who = self._context.processes.identify(os.getpid())
        return None if who is None else who.boot_id


def _in_doubt(seen: Look) -> frozenset[str]:
    """Return the agents of which there is something, and no open saga."""
    return frozenset(_agents_of(seen)) - seen.accounted


def _agents_of(seen: Look) -> Iterable[str]:
    yield from (trace.agent_id for trace in seen.traces or ())
    cookies = [session.owner for session in seen.sessions or ()]
    cookies += [marked.cookie for marked in seen.processes or ()]
    yield from (agent for agent in map(seen.agent_of, cookies) if agent is not None)
    yield from (entered.agent_id for entered in (*seen.recorded, *seen.listed))
