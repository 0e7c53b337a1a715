"""
Repair: put a registry right by all that is known, and show the difference first.

What a registry should say is made by :mod:`~orchestrator_core.reconcile.rebuild`, as it is
when damage is found on the way; here it is compared with what the registry says,
and written if that is wanted. Nobody is ended, and no file but registries is
changed. All of it works while agents and orchestrators are at work: what is
written is made under the registry's lock, from what is there at that instant.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import attrs
import msgspec

from orchestrator_core.exceptions import NotFound, OrchestratorError, StorageError
from orchestrator_core.reconcile.evidence import EvidenceStore
from orchestrator_core.reconcile.rebuild import global_document, task_document
from orchestrator_core.registry.partial_parse import agent_of, parse_what_is_left
from orchestrator_core.registry.snapshot_cache import read_snapshot
from orchestrator_core.system import durable
from orchestrator_core.system.deprecation import warn_renamed
from orchestrator_core.system.names import check_id, is_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from orchestrator_core.deployment.context import RootContext
    from orchestrator_core.registry import Document, Registry
    from orchestrator_core.saga import Sagas

    Make = Callable[[Document | None, bytes | None], Document]


@attrs.frozen(kw_only=True)
class Difference:
    """
    What a registry says of one thing, and what it should say.

    ``was`` and ``becomes`` hold the fields that differ; a field is in one of the
    two alone if it goes, or comes.
    """

    kind: str  #: "added", "removed" or "changed".
    agent_id: str | None  #: None: it is about the document itself.
    was: dict[str, Any] = attrs.field(factory=dict)
    becomes: dict[str, Any] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class RegistryRepair:
    """One registry: what is wrong with it, or was."""

    registry: str  #: Its path.
    task_id: str | None  #: None: it is the global one.
    state: str  #: "whole", "damaged", "missing", or "unknown": it could not be read.
    why: str = ""  #: For damaged and unknown: why.
    differences: tuple[Difference, ...] = ()
    kept: str | None = None  #: Where the damaged one is kept, if it was set aside just now.
    error: str = ""  #: Why it was not repaired.

    @property
    def is_consistent(self) -> bool:
        """Whether there is nothing to be repaired."""
        return self.state == "whole" and not self.differences

    @property
    def is_right(self) -> bool:
        """The old name of :attr:`is_consistent`."""
        warn_renamed("RegistryRepair.is_right", "RegistryRepair.is_consistent")
        return self.is_consistent


@attrs.frozen(kw_only=True)
class RepairReport:
    """What is wrong with a root's registries; and with ``dry_run`` off, what was."""

    repairs: tuple[RegistryRepair, ...]
    dry_run: bool

    @property
    def mended(self) -> tuple[RegistryRepair, ...]:
        """The old name of :attr:`repairs`."""
        warn_renamed("RepairReport.mended", "RepairReport.repairs")
        return self.repairs

    @property
    def clean(self) -> bool:
        """Whether nothing is wrong, or is wrong any more."""
        if self.dry_run:
            return all(one.is_consistent for one in self.repairs)
        return not any(one.error for one in self.repairs)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-safe values."""
        repairs: list[dict[str, Any]] = msgspec.to_builtins(self.repairs)
        return {"clean": self.clean, "mended": repairs, "dry_run": self.dry_run}


def repair(
    context: RootContext, sagas: Sagas, *, task_id: str | None, only_global: bool, dry_run: bool
) -> RepairReport:
    """Repair one task's registry, or the global one, or all; see :meth:`Orchestrator.repair`."""
    heard = EvidenceStore(context, sagas)
    mended: list[RegistryRepair] = []
    for name in _wanted(context, task_id, only_global=only_global):
        registry, make = _maker(context, sagas, heard, name)
        mended.append(_mended(registry, name, make, dry_run=dry_run))
    return RepairReport(repairs=tuple(mended), dry_run=dry_run)


def _wanted(
    context: RootContext, task_id: str | None, *, only_global: bool
) -> Iterator[str | None]:
    """Yield the tasks whose registries are meant, and None for the global one: it counts them."""
    if only_global:
        yield None
    elif task_id is not None:
        if not context.layout.task(check_id("task", task_id)).is_dir():
            raise NotFound(f"there is no task {task_id!r}")
        yield task_id
    else:
        yield from sorted({*context.layout.task_ids(), *_without_registry(context)})
        yield None


def _without_registry(context: RootContext) -> Iterator[str]:
    """Yield the tasks whose registry is gone, without a trace but for their directories."""
    for path in context.layout.root.glob("TASK-*/logs"):
        if is_id(path.parent.name):
            yield path.parent.name


def _maker(
    context: RootContext, sagas: Sagas, heard: EvidenceStore, task_id: str | None
) -> tuple[Registry, Make]:
    def make(present: Document | None, damaged: bytes | None) -> Document:
        how: dict[str, Any] = {"present": present, "damaged": damaged, "heard": heard}
        if task_id is None:
            return global_document(context, sagas, **how)
        return task_document(context, sagas, task_id, **how)

    return (context.global_registry if task_id is None else context.task_registry(task_id)), make


def _mended(
    registry: Registry, task_id: str | None, make: Make, *, dry_run: bool
) -> RegistryRepair:
    try:
        seen = _seen(registry, task_id, make)
        if dry_run or seen.is_consistent or seen.state == "unknown":
            return seen
        return _applied(registry, seen, make)
    except OrchestratorError as error:  # One that cannot be repaired strands no other.
        return _unknown(registry, task_id, str(error))


def _unknown(registry: Registry, task_id: str | None, why: str) -> RegistryRepair:
    return RegistryRepair(
        registry=str(registry.path), task_id=task_id, state="unknown", why=why, error=why
    )


def _seen(registry: Registry, task_id: str | None, make: Make) -> RegistryRepair:
    """Compare without a lock, and without changing anything."""
    found = read_snapshot(registry)
    if found.unreadable:
        return _unknown(registry, task_id, found.unreadable)
    data = _bytes(registry) if found.damage else None
    wanted = make(copy.deepcopy(found.document), data)
    registry.schema.derive(wanted)
    before = found.document if data is None else parse_what_is_left(data, registry.schema)
    return RegistryRepair(
        registry=str(registry.path),
        task_id=task_id,
        state="damaged" if found.damage else "missing" if found.missing else "whole",
        why=found.damage,
        differences=tuple(differences(before or {}, wanted)),
    )


def _applied(registry: Registry, seen: RegistryRepair, make: Make) -> RegistryRepair:
    """Write it, and return what was really done: something may have changed since the look."""
    found: list[Document | None] = []
    damaged = _bytes(registry) if seen.state == "damaged" else None

    def mend(present: Document | None) -> Document:
        found.append(copy.deepcopy(present))
        return make(present, None)

    asides = registry.repair(mend)
    before = found[0]
    if before is None:
        before = parse_what_is_left(damaged, registry.schema) if damaged is not None else {}
    return attrs.evolve(
        seen,
        differences=tuple(differences(before, registry.read())),
        kept=str(asides[0].kept) if asides else None,
    )


def _bytes(registry: Registry) -> bytes | None:
    try:
        return durable.read(registry.path)
    except (FileNotFoundError, StorageError):
        return None  # A directory, perhaps; or gone by now.


# --- the difference ------------------------------------------------------------------------------


def differences(was: Document, becomes: Document) -> Iterator[Difference]:
    """Yield what differs between two documents: of themselves first, then agent by agent."""
    own = _changed(_without_agents(was), _without_agents(becomes))
    if own is not None:
        yield Difference(kind="changed", agent_id=None, was=own[0], becomes=own[1])
    old, new = _agents(was), _agents(becomes)
    for agent_id in dict.fromkeys((*old, *new)):
        if agent_id not in old:
            yield Difference(kind="added", agent_id=agent_id, becomes=new[agent_id])
        elif agent_id not in new:
            yield Difference(kind="removed", agent_id=agent_id, was=old[agent_id])
        elif (changed := _changed(old[agent_id], new[agent_id])) is not None:
            yield Difference(kind="changed", agent_id=agent_id, was=changed[0], becomes=changed[1])


def _changed(
    was: Mapping[str, Any], becomes: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]] | None:
    names = [
        name
        for name in dict.fromkeys((*was, *becomes))
        if name not in was or name not in becomes or was[name] != becomes[name]
    ]
    if not names:
        return None
    return (
        {name: was[name] for name in names if name in was},
        {name: becomes[name] for name in names if name in becomes},
    )


def _without_agents(document: Document) -> dict[str, Any]:
    # What marks a copy as such is not about what it says.
    own = ("agents", "damaged", "schema_version")
    return {name: value for name, value in document.items() if name not in own}


def _agents(document: Document) -> dict[str, dict[str, Any]]:
    agents = document.get("agents") or {}
    if isinstance(agents, dict):
        return agents
    return {agent_of(record) or f"record {n}": record for n, record in enumerate(agents, 1)}
