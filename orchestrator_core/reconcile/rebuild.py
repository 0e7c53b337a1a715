"""
Rebuild a damaged registry from all other sources.

The sources are the journals, open and closed, which hold every record as it was first written
and every end as it was reported, and what can be parsed of the registry's damaged and previous
versions. For an agent whose journal is gone, those versions are the only source.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator_core.exceptions import StorageError
from orchestrator_core.reconcile.evidence import EvidenceStore
from orchestrator_core.reconcile.legacy.reconstruct import reconstruct_from_files
from orchestrator_core.reconcile.merge.global_registry import merge_global
from orchestrator_core.reconcile.merge.task_registry import merge_task
from orchestrator_core.registry import new_global
from orchestrator_core.registry.partial_parse import parse_what_is_left
from orchestrator_core.system import durable
from orchestrator_core.system.clock import timestamp

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator_core.deployment.context import RootContext
    from orchestrator_core.registry import Document, Registry
    from orchestrator_core.registry.document import Schema


def registry_of(context: RootContext, task_id: str | None) -> Registry:
    """Return a task's registry; the global one for None."""
    return context.global_registry if task_id is None else context.task_registry(task_id)


def rebuild_document(
    context: RootContext,
    task_id: str | None,
    *,
    present: Document | None = None,
    damaged: Document | None = None,
    evidence: EvidenceStore | None = None,
) -> Document:
    """
    Return a task's document, merged from the journals and the registry's previous versions.

    With None, return the global document. *present* is the document as it is, if it can be
    used. *damaged* is what is left of a damaged document that was not set aside yet.
    """
    registry = registry_of(context, task_id)
    versions = (
        damaged,
        *(read_what_is_left(path, registry.schema) for path in registry.quarantined()),
    )
    previous = [version for version in versions if version]
    known = (evidence or EvidenceStore(context)).for_task(task_id)
    if task_id is None:
        task_ids = context.layout.task_ids()
        tasks = {each: context.task_registry(each).read_or_none() for each in task_ids}
        return merge_global(present, previous, known, empty=new_global(), tasks=tasks)
    if present is None:
        previous.append(reconstruct_from_files(context, task_id, known))
    return merge_task(present, previous, known, defaults=_task_defaults(context, task_id))


def _task_defaults(context: RootContext, task_id: str) -> dict[str, Any]:
    listed = (context.global_registry.read_or_none() or {}).get("tasks", {}).get(task_id, {})
    return {
        "task_id": task_id,
        "task_description": listed.get("description", ""),
        "created_at": listed.get("created_at") or timestamp(),
        "workspace": str(context.layout.task(task_id)),
        "workspace_base": str(context.layout.root),
        "status": listed.get("status", "INITIALIZED"),
        "key": listed.get("key"),
        **context.limits._asdict(),
    }


def read_what_is_left(path: Path, schema: Schema) -> Document | None:
    """Return what can be parsed of a damaged or previous version; None if it cannot be read."""
    try:
        return parse_what_is_left(durable.read(path), schema)
    except (FileNotFoundError, StorageError):
        return None  # It is a directory, or gone by now.
