"""
The retention policy: which files to remove or compress, by age, number and size.

The age of a file counts from its last write, or from the closing of its agent's saga if that
is later. So a log that was silent in its last week is as new as the agent's end. A file from
the future has no age: a clock that was set back makes all files younger, and removes none.
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
_MIN_COMPRESSED = 4096  #: Bytes. A smaller file takes one block of the disk in any case.


@attrs.frozen
class StoredFile:
    """A file that retention may remove."""

    parts: tuple[str, ...]  #: The path of its directory below the root.
    name: str
    state: FileState
    since: float  #: The start of its age, in seconds since 1970.
    task_id: str | None = None

    @property
    def path(self) -> str:
        """The path of the file below the root."""
        return "/".join((*self.parts, self.name))


@attrs.frozen
class Selection:
    """The archived files to remove, each with the reason, and those to compress."""

    remove: tuple[tuple[StoredFile, str], ...]  #: The reason is age, count or size.
    compress: tuple[StoredFile, ...]


def select(files: Iterable[StoredFile], bounds: Retention, *, now: float) -> Selection:
    """
    Select the files that are too old, then the oldest of those that are too many or too large.

    Sizes are those before compression, so that a dry run predicts the collection.
    """
    kept = sorted(files, key=lambda file: (file.since, file.path))
    selected = {file: "age" for file in kept if is_older(file.since, bounds.days, now=now)}
    tasks: dict[str | None, list[StoredFile]] = defaultdict(list)
    for file in kept:
        if file not in selected:
            tasks[file.task_id].append(file)
    for of_task in tasks.values():
        selected.update(_excess(of_task, bounds.files_per_task, bounds.bytes_per_task))
    kept = [file for file in kept if file not in selected]
    selected.update(_excess(kept, bounds.files, bounds.bytes))
    compress = (
        file
        for file in kept
        if file not in selected
        and is_older(file.since, bounds.compress_after_days, now=now)
        and file.state.size >= _MIN_COMPRESSED
        and not file.name.endswith(GZ)
    )
    return Selection(tuple(selected.items()), tuple(compress))


def is_older(since: float, days: float | None, *, now: float) -> bool:
    """Return whether an age exceeds *days*; None means that no age does."""
    return days is not None and now - since > days * DAY_S


def _excess(
    oldest_first: list[StoredFile], count: int | None, size: int | None
) -> Iterator[tuple[StoredFile, str]]:
    """Yield the oldest files, until at most *count* files and *size* bytes are left."""
    files_left, bytes_left = len(oldest_first), sum(file.state.size for file in oldest_first)
    for file in oldest_first:
        if count is not None and files_left > count:
            yield file, "count"
        elif size is not None and bytes_left > size:
            yield file, "size"
        else:
            return
        files_left -= 1
        bytes_left -= file.state.size
