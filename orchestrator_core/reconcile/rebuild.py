"""
Rebuild a damaged registry from all other sources.

The sources are the journals, open and closed, which hold every record as it was first written
and every end as it was reported, and what can be parsed of the registry's damaged and previous
versions. For an agent whose journal is gone, those versions are the only source.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator_core.exceptions import StorageError
from orchestrator_core.reconcile.evidence import EvidenceStore
from orchestrator_core.reconcile.legacy.reconstruct import reconstruct_from_files
from orchestrator_core.reconcile.merge import merge_global, merge_task
from orchestrator_core.registry import new_global
from orchestrator_core.registry.partial_parse import parse_what_is_left
from orchestrator_core.system import durable
from orchestrator_core.system.clock import timestamp

if TYPE_CHECKING:
    from orchestrator_core.deployment.context import RootContext
    from orchestrator_core.registry import Document, Registry
    from orchestrator_core.saga import Sagas


def task_document(
    context: RootContext,
    sagas: Sagas,
    task_id: str,
    *,
    present: Document | None = None,
    damaged_bytes: bytes | None = None,
    evidence: EvidenceStore | None = None,
) -> Document:
    """
    Return a task's document, merged from the journals and the registry's previous versions.

    *present* is the document as it is, if it can be used. *damaged_bytes* are the bytes of
    a damaged document that was not set aside yet.
    """
    registry = context.task_registry(task_id)
    listed = (context.global_registry.read_or_none() or {}).get("tasks", {}).get(task_id, {})
    defaults = {
        "task_id": task_id,
        "task_description": listed.get("description", ""),
        "created_at": listed.get("created_at") or timestamp(),
        "workspace": str(context.layout.task(task_id)),
        "workspace_base": str(context.layout.root),
        "status": listed.get("status", "INITIALIZED"),
        "key": listed.get("key"),
        "max_agents": context.limits.max_agents,
        "max_depth": context.limits.max_depth,
        "max_concurrent": context.limits.max_concurrent,
    }
    known = (evidence or EvidenceStore(context, sagas)).for_task(task_id)
    previous = previous_versions(registry, damaged_bytes)
    if present is None:
        previous.append(reconstruct_from_files(context, task_id, known))
    return merge_task(present, previous, known, defaults=defaults)


def global_document(
    context: RootContext,
    sagas: Sagas,
    *,
    present: Document | None = None,
    damaged_bytes: bytes | None = None,
    evidence: EvidenceStore | None = None,
) -> Document:
    """Return the global document, merged in the same way; see :func:`task_document`."""
    return merge_global(
        present,
        previous_versions(context.global_registry, damaged_bytes),
        (evidence or EvidenceStore(context, sagas)).for_task(),
        empty=new_global(),
        tasks={
            task_id: context.task_registry(task_id).read_or_none()
            for task_id in context.layout.task_ids()
        },
    )


def previous_versions(registry: Registry, damaged_bytes: bytes | None = None) -> list[Document]:
    """Return what can be parsed of a registry's damaged and previous versions, newest first."""
    versions = [] if damaged_bytes is None else [parse_what_is_left(damaged_bytes, registry.schema)]
    for path in registry.quarantined():
        try:
            versions.append(parse_what_is_left(durable.read(path), registry.schema))
        except (FileNotFoundError, StorageError):
            continue  # It is a directory, or gone by now.
    return versions
