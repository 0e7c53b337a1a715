"""
Repair: compare registries with what they should contain, and rewrite them on request.

:mod:`~orchestrator_core.reconcile.rebuild` computes what a registry should contain, here as
well as when damage is found by a reader. Repair ends no agent and changes no file but
registries. It is safe while agents and orchestrators run: the new document is computed
under the registry's lock, from the document at that instant.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import attrs
import msgspec

from orchestrator_core.exceptions import NotFound, OrchestratorError
from orchestrator_core.reconcile.evidence import EvidenceStore
from orchestrator_core.reconcile.rebuild import read_what_is_left, rebuild_document, registry_of
from orchestrator_core.registry.partial_parse import agent_of
from orchestrator_core.registry.snapshot_cache import read_snapshot
from orchestrator_core.system.deprecation import renamed_attributes
from orchestrator_core.system.names import check_id, is_id

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator_core.deployment.context import RootContext
    from orchestrator_core.registry import Document, Registry


@attrs.frozen(kw_only=True)
class Difference:
    """
    How one thing in a registry differs from what it should be.

    ``was`` and ``becomes`` hold the fields that differ. A field that is removed is only in
    ``was``; a field that is added, only in ``becomes``.
    """

    kind: str  #: "added", "removed" or "changed".
    agent_id: str | None  #: None: the document itself.
    was: dict[str, Any] = attrs.field(factory=dict)
    becomes: dict[str, Any] = attrs.field(factory=dict)


@renamed_attributes(is_right="is_consistent")
@attrs.frozen(kw_only=True)
class RegistryRepair:
    """The result for one registry."""

    registry: str  #: Its path.
    task_id: str | None  #: None: the global registry.
    state: str  #: "whole", "damaged", "missing", or "unknown" if unreadable.
    why: str = ""  #: The cause, for "damaged" and "unknown".
    differences: tuple[Difference, ...] = ()
    kept: str | None = None  #: Path of the damaged file, if this repair set it aside.
    error: str = ""  #: Why the registry was not repaired.

    @property
    def is_consistent(self) -> bool:
        """Whether there is nothing to repair."""
        return self.state == "whole" and not self.differences


@renamed_attributes(mended="repairs")
@attrs.frozen(kw_only=True)
class RepairReport:
    """The differences of a root's registries; without ``dry_run`` they are repaired."""

    repairs: tuple[RegistryRepair, ...]
    dry_run: bool

    @property
    def clean(self) -> bool:
        """Whether no registry needs repair, or, without ``dry_run``, none still does."""
        if self.dry_run:
            return all(one.is_consistent for one in self.repairs)
        return not any(one.error for one in self.repairs)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON-safe values."""
        repairs: list[dict[str, Any]] = msgspec.to_builtins(self.repairs)
        return {"clean": self.clean, "mended": repairs, "dry_run": self.dry_run}


def repair(
    context: RootContext, *, task_id: str | None, only_global: bool, dry_run: bool
) -> RepairReport:
    """Repair one task's registry, or the global one, or all; see :meth:`Orchestrator.repair`."""
    evidence = EvidenceStore(context)
    repairs = [
        _Repair(context, evidence, target, registry_of(context, target)).run(dry_run=dry_run)
        for target in _targets(context, task_id, only_global=only_global)
    ]
    return RepairReport(repairs=tuple(repairs), dry_run=dry_run)


def _targets(context: RootContext, task_id: str | None, *, only_global: bool) -> list[str | None]:
    """Return the tasks of the registries to repair; last, None for the global one."""
    if only_global:
        return [None]
    if task_id is not None:
        if not context.layout.task(check_id("task", task_id)).is_dir():
            raise NotFound(f"there is no task {task_id!r}")
        return [task_id]
    directories = {path.parent.name for path in context.layout.root.glob("TASK-*/logs")}
    without_registry = filter(is_id, directories)
    # The global registry counts what the tasks' registries hold.
    return [*sorted({*context.layout.task_ids(), *without_registry}), None]


@attrs.frozen
class _Repair:
    """The repair of one registry: a task's, or the global one for None."""

    context: RootContext
    evidence: EvidenceStore
    task_id: str | None
    registry: Registry

    def run(self, *, dry_run: bool) -> RegistryRepair:
        try:
            found = self._diff()
            if dry_run or found.is_consistent or found.state == "unknown":
                return found
            return self._apply(found)
        except OrchestratorError as error:  # It does not affect the other registries.
            return self._unknown(str(error))

    def _unknown(self, why: str) -> RegistryRepair:
        path = str(self.registry.path)
        return RegistryRepair(
            registry=path, task_id=self.task_id, state="unknown", why=why, error=why
        )

    def _rebuild(self, present: Document | None, damaged: Document | None = None) -> Document:
        return rebuild_document(
            self.context, self.task_id, present=present, damaged=damaged, evidence=self.evidence
        )

    def _what_is_left(self) -> Document:
        return read_what_is_left(self.registry.path, self.registry.schema) or {}

    def _diff(self) -> RegistryRepair:
        """Compare without a lock, and without changing anything."""
        found = read_snapshot(self.registry)
        if found.unreadable:
            return self._unknown(found.unreadable)
        damaged = self._what_is_left() if found.damage else None
        target = self._rebuild(copy.deepcopy(found.document), damaged)
        self.registry.schema.derive(target)
        return RegistryRepair(
            registry=str(self.registry.path),
            task_id=self.task_id,
            state="damaged" if found.damage else "missing" if found.missing else "whole",
            why=found.damage,
            differences=tuple(differences(found.document or damaged or {}, target)),
        )

    def _apply(self, found: RegistryRepair) -> RegistryRepair:
        """Rewrite the registry; return the real differences, which may be others by now."""
        before = self._what_is_left() if found.state == "damaged" else {}

        def rebuild(present: Document | None) -> Document:
            nonlocal before
            before = before if present is None else copy.deepcopy(present)
            return self._rebuild(present)

        quarantined = self.registry.repair(rebuild)
        return attrs.evolve(
            found,
            differences=tuple(differences(before, self.registry.read())),
            kept=str(quarantined[0].kept) if quarantined else None,
        )


# --- the difference ------------------------------------------------------------------------------


def differences(was: Document, becomes: Document) -> Iterator[Difference]:
    """Yield the differences of two documents: of themselves first, then agent by agent."""
    old, new = _parts(was), _parts(becomes)
    missing = object()
    for agent_id in dict.fromkeys((*old, *new)):
        before, after = old.get(agent_id, {}), new.get(agent_id, {})
        names = [
            name
            for name in dict.fromkeys((*before, *after))
            if before.get(name, missing) != after.get(name, missing)
        ]
        if names:
            is_in_both = agent_id in old and agent_id in new
            yield Difference(
                kind="changed" if is_in_both else "removed" if agent_id in old else "added",
                agent_id=agent_id,
                was={name: before[name] for name in names if name in before},
                becomes={name: after[name] for name in names if name in after},
            )


def _parts(document: Document) -> dict[str | None, dict[str, Any]]:
    """Return the records or entries of a document by agent, and its other fields under None."""
    other = ("agents", "damaged", "schema_version")  # The last two are about this copy only.
    parts: dict[str | None, dict[str, Any]] = {
        None: {name: value for name, value in document.items() if name not in other}
    }
    agents = document.get("agents") or {}
    if isinstance(agents, dict):
        parts.update(agents)
    else:
        for number, record in enumerate(agents, 1):
            parts[agent_of(record) or f"record {number}"] = record
    return parts
