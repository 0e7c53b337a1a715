"""
Retention: remove old files by the age, number and size that the root's settings allow.

A *collection* removes what is too old or too much, and compresses the rest
(:mod:`~orchestrator_core.operations.retention.collect`). An *export* writes a whole task
into one tar file, and can remove the task afterwards
(:mod:`~orchestrator_core.operations.retention.exporting`). Neither touches the files of an
agent that has not ended, and neither follows a link.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import attrs
import msgspec

from orchestrator_core.system.json_values import JsonValues


@attrs.frozen(kw_only=True)
class GcItem:
    """One file that was removed or compressed, or would be."""

    path: str  #: Below the root.
    why: str  #: age, count, size, damaged, leftover; journal; or compressed, which stays.
    task_id: str | None = None
    bytes: int = 0  #: The size of the file.
    freed: int = 0  #: Of those bytes; 0 for what a dry run would compress.


@attrs.frozen(kw_only=True)
class TaskTotals:
    """One task's part of a collection."""

    removed: int = 0
    compressed: int = 0
    bytes_freed: int = 0


@attrs.frozen(kw_only=True)
class GcReport(JsonValues):
    """
    The result of a collection, or its prediction by a dry run.

    ``failed`` has the errors of files that were not removed or compressed. ``held`` is the
    number of archived files that open sagas may still use, and that were left alone.
    """

    dry_run: bool
    removed: tuple[GcItem, ...] = ()  #: Archived files, and leftovers of crashes and damage.
    compressed: tuple[GcItem, ...] = ()
    journals: tuple[GcItem, ...] = ()  #: Of agents that have ended: counted, then removed.
    failed: tuple[str, ...] = ()
    held: int = 0
    duration_ms: float = 0.0

    @property
    def bytes_freed(self) -> int:
        """The freed bytes; those of a dry run are without compression."""
        items = (*self.removed, *self.compressed, *self.journals)
        return sum(item.freed for item in items)

    @property
    def tasks(self) -> dict[str, TaskTotals]:
        """The totals of each task, by its id."""
        removed = Counter(item.task_id for item in self.removed)
        compressed = Counter(item.task_id for item in self.compressed)
        freed: Counter[str | None] = Counter()
        for item in (*self.removed, *self.compressed):
            freed[item.task_id] += item.freed
        return {
            task_id: TaskTotals(
                removed=removed[task_id], compressed=compressed[task_id], bytes_freed=freed[task_id]
            )
            for task_id in sorted(filter(None, freed))
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON-safe values."""
        totals = {"bytes_freed": self.bytes_freed, "tasks": msgspec.to_builtins(self.tasks)}
        return {**super().to_dict(), **totals}


@attrs.frozen(kw_only=True)
class ExportReport(JsonValues):
    """The result of an export."""

    task_id: str
    target: str
    files: int  #: Names in the tar file, including directories and journals.
    bytes: int  #: Of all files in it.
    size: int  #: Of the tar file itself.
    journals: tuple[str, ...]  #: The task's closed sagas.
    skipped: tuple[str, ...] = ()  #: Sockets, which a tar file cannot hold.
    removed: bool = False  #: The task is no longer in the root.
    left: tuple[str, ...] = ()  #: The errors of the removal; the next collection finishes it.
    duration_ms: float = 0.0
