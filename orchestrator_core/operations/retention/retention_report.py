"""What a collection has found and done, and what an export."""

from __future__ import annotations

from typing import Any

import attrs
import msgspec


@attrs.frozen(kw_only=True)
class GcItem:
    """One file that went, or would."""

    path: str  #: Below the root.
    why: str  #: age, count, size, damaged, leftover; journal; or compressed, which stays.
    task_id: str | None = None
    bytes: int = 0  #: That it had.
    freed: int = 0  #: Of those; 0 for what a dry run would compress: that shows only then.


@attrs.frozen(kw_only=True)
class TaskTotals:
    """What of it was one task's."""

    removed: int = 0
    compressed: int = 0
    bytes_freed: int = 0


@attrs.frozen(kw_only=True)
class GcReport:
    """
    What went, or in a dry run would go.

    ``failed`` says what was to go and did not, and why. ``held`` counts the files that
    were left alone because an agent that is not over may still name them.
    """

    dry_run: bool
    removed: tuple[GcItem, ...] = ()  #: ArchivedFile files, and what crashes and damage have left.
    compressed: tuple[GcItem, ...] = ()
    journals: tuple[GcItem, ...] = ()  #: Of agents that have ended: counted, then removed.
    failed: tuple[str, ...] = ()
    held: int = 0
    duration_ms: float = 0.0

    @property
    def bytes_freed(self) -> int:
        """All bytes that were freed; in a dry run, would be, but for compressing."""
        items = (*self.removed, *self.compressed, *self.journals)
        return sum(item.freed for item in items)

    @property
    def tasks(self) -> dict[str, TaskTotals]:
        """What of it was each task's, by its id."""
        shares: dict[str, TaskTotals] = {}
        for name, items in (("removed", self.removed), ("compressed", self.compressed)):
            for item in items:
                if item.task_id is not None:
                    shares[item.task_id] = _with(shares.get(item.task_id), name, item.freed)
        return dict(sorted(shares.items()))

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-safe values."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return {
            **plain,
            "bytes_freed": self.bytes_freed,
            "tasks": msgspec.to_builtins(self.tasks),
        }


def _with(share: TaskTotals | None, name: str, freed: int) -> TaskTotals:
    share = share or TaskTotals()
    more = {name: getattr(share, name) + 1, "bytes_freed": share.bytes_freed + freed}
    return attrs.evolve(share, **more)


@attrs.frozen(kw_only=True)
class ExportReport:
    """What was exported, and to where."""

    task_id: str
    target: str
    files: int  #: Names in the tar file, directories and journals among them.
    bytes: int  #: Of all that is in it.
    size: int  #: Of the tar file itself.
    journals: tuple[str, ...]  #: The task's closed sagas.
    skipped: tuple[str, ...] = ()  #: Sockets, which no tar file can hold.
    removed: bool = False  #: The task is not in the root any more.
    left: tuple[str, ...] = ()  #: What of it could not be removed; the next collection does.
    duration_ms: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-safe values."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return plain
