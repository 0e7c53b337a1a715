"""
What is to go: a pure choice among files, by age, by number and by size.

A file's age counts from when it was last written, or from when its agent's saga
closed, if that was later: a log that was silent for its last week is as new as its
agent's end. A file from the future has no age; a clock that was set back makes
everything younger, and so removes nothing early.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import attrs

from orchestrator_core.system.gzip_read import GZ

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from orchestrator_core.model.settings import Retention
    from orchestrator_core.operations.retention.safe_dir import FileState

DAY_S = 86400.0
_WORTH_IT = 4096  #: Bytes: what is smaller takes one block of the disk, compressed or not.


@attrs.frozen
class ArchivedFile:
    """An archived file that may be chosen."""

    task_id: str
    seen: FileState
    since: float  #: What its age counts from; seconds since 1970.

    @property
    def parts(self) -> tuple[str, ...]:
        """The directory it is in, below the root."""
        return (self.task_id, "archive")

    @property
    def path(self) -> str:
        """Where it is below the root."""
        return f"{self.task_id}/archive/{self.seen.name}"


@attrs.frozen
class Selection:
    """What is to become of archived files."""

    remove: tuple[tuple[ArchivedFile, str], ...]  #: With why: age, count or size.
    compress: tuple[ArchivedFile, ...]


def choose(files: Iterable[ArchivedFile], bounds: Retention, *, now: float) -> Selection:
    """
    Choose what goes: what is too old, then the oldest of what is too many or too much.

    Sizes count as they are now, before anything is compressed, so that a dry run
    tells what will be done.
    """
    kept = sorted(files, key=lambda file: (file.since, file.path))
    doomed: dict[str, tuple[ArchivedFile, str]] = {}

    def doom(chosen: Iterable[tuple[ArchivedFile, str]]) -> None:
        doomed.update({file.path: (file, why) for file, why in chosen})
        kept[:] = [file for file in kept if file.path not in doomed]

    doom((file, "age") for file in kept if is_older(file.since, bounds.days, now=now))
    for mine in _by_task(kept):
        doom(_excess(mine, bounds.files_per_task, bounds.bytes_per_task))
    doom(_excess(kept, bounds.files, bounds.bytes))
    compress = (
        file
        for file in kept
        if is_older(file.since, bounds.compress_after_days, now=now)
        and file.seen.size >= _WORTH_IT
        and not file.seen.name.endswith(GZ)
    )
    return Selection(tuple(doomed.values()), tuple(compress))


def is_older(since: float, days: float | None, *, now: float) -> bool:
    """Tell whether something of that time is older than *days*; None: nothing ever is."""
    return days is not None and now - since > days * DAY_S


def _by_task(files: Iterable[ArchivedFile]) -> list[list[ArchivedFile]]:
    tasks: dict[str, list[ArchivedFile]] = defaultdict(list)
    for file in files:
        tasks[file.task_id].append(file)
    return list(tasks.values())


def _excess(
    oldest_first: list[ArchivedFile], count: int | None, size: int | None
) -> Iterator[tuple[ArchivedFile, str]]:
    """Yield the oldest, until no more than *count* with no more than *size* bytes are left."""
    left, bytes_left = len(oldest_first), sum(file.seen.size for file in oldest_first)
    for file in oldest_first:
        if count is not None and left > count:
            yield file, "count"
        elif size is not None and bytes_left > size:
            yield file, "size"
        else:
            return
        left -= 1
        bytes_left -= file.seen.size
