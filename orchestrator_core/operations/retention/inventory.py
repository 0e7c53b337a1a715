"""
One look at the past: what is kept, how old it is, and what may not be touched.

The order is what makes it safe beside agents that end meanwhile. The archives are
listed first, then the open sagas: whose file is in an archive has begun to end
before, so either its saga is still among the open ones, and holds the file, or it
is closed, for ever.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import attrs

from orchestrator_core.exceptions import JournalDamaged, SagaNotFound, StorageError
from orchestrator_core.operations.retention import file_names
from orchestrator_core.operations.retention.policy import ArchivedFile, is_older
from orchestrator_core.operations.retention.safe_dir import FileState, SafeDir

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Mapping

    from orchestrator_core.deployment.context import RootContext
    from orchestrator_core.model.settings import Retention
    from orchestrator_core.saga import Sagas

    Ages = Mapping[str, os.stat_result]

_STALE_DAYS = 1.0  #: A writer's temporary file lives for milliseconds.


@attrs.frozen
class StaleFile:
    """A file that a crash, or some damage, has left."""

    parts: tuple[str, ...]  #: The directory it is in, below the root.
    seen: FileState
    why: str  #: damaged or leftover
    task_id: str | None = None  #: Whose it is.

    @property
    def path(self) -> str:
        """Where it is below the root."""
        return "/".join((*self.parts, self.seen.name))


@attrs.frozen
class Inventory:
    """What there is."""

    archived: tuple[ArchivedFile, ...]  #: ArchivedFile files that nobody holds.
    held: int  #: How many archived files somebody does.
    journals: Ages  #: The closed ones that no open saga names, by saga id.
    loose: tuple[StaleFile, ...]  #: Those that are old enough to go.
    failed: tuple[str, ...]  #: What could not be looked at.


def take_inventory(
    context: RootContext, sagas: Sagas, bounds: Retention, *, now: float
) -> Inventory:
    """
    Look, and change nothing.

    Raises:
        StorageError: It cannot be told what open sagas hold.
    """
    shelves = _Shelves(context)
    tasks = context.layout.task_ids()
    files = [
        (task_id, seen, agent_id)
        for task_id in tasks
        for seen in shelves.files(task_id, "archive")
        if (agent_id := file_names.agent_of(seen.name)) is not None
    ]
    held = _held(sagas)
    ages = sagas.journals.closed_stats()
    free = [
        ArchivedFile(task_id, seen, _since(seen, agent_id, ages))
        for task_id, seen, agent_id in files
        if agent_id not in held
    ]
    return Inventory(
        archived=tuple(free),
        held=len(files) - len(free),
        journals={saga_id: age for saga_id, age in ages.items() if saga_id not in held},
        loose=(
            *_leftovers(shelves, tasks, now=now),
            *_damaged_journals(shelves, held, ages, bounds, now=now),
            *_damaged_registries(shelves, tasks, bounds, now=now),
        ),
        failed=tuple(shelves.failed),
    )


class _Shelves:
    """The directories of a root, each listed once."""

    def __init__(self, context: RootContext) -> None:
        self._root = context.layout.root
        self._listed: dict[tuple[str, ...], list[FileState]] = {}
        self.failed: list[str] = []

    def files(self, *parts: str) -> list[FileState]:
        """Return the files of ours in a directory; none if it cannot be listed."""
        if parts not in self._listed:
            self._listed[parts] = self._list(parts)
        return self._listed[parts]

    def _list(self, parts: tuple[str, ...]) -> list[FileState]:
        try:
            with SafeDir.open(self._root, *parts) as folder:
                return folder.files()
        except FileNotFoundError:
            return []
        except StorageError as error:
            self.failed.append(str(error))
            return []


def _since(seen: FileState, agent_id: str, ages: Ages) -> float:
    """Return what a file's age counts from; see :mod:`.choosing`."""
    written = seen.mtime_ns / 1e9
    closed = ages.get(agent_id)
    return written if closed is None else max(written, closed.st_mtime)


# --- what open sagas hold -----------------------------------------------------------------------


def _held(sagas: Sagas) -> set[str]:
    """Return the agents that are not over, and all that their sagas' receipts name."""
    held: set[str] = set()
    for saga_id in sagas.journals.ids():
        held.add(saga_id)
        try:
            reading = sagas.journals.read(saga_id)
        except (SagaNotFound, JournalDamaged):
            continue  # Closed by now; or nothing to read, and recovery sees to it.
        for entry in reading.entries:
            for text in _texts(entry.data.get("receipt")):
                held.add(file_names.agent_of(text.rpartition("/")[2]) or text)
    return held


def _texts(value: Any) -> Iterator[str]:  # noqa: ANN401 - any JSON
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)


# --- what crashes and damage have left ------------------------------------------------------------


def _leftovers(shelves: _Shelves, tasks: list[str], *, now: float) -> Iterator[StaleFile]:
    # In an archive only collections write, one at a time: what is there is a dead one's.
    for task_id in tasks:
        for seen in shelves.files(task_id, "archive"):
            if file_names.is_temporary(seen.name):
                yield StaleFile((task_id, "archive"), seen, "leftover", task_id)
    for parts in ((), ("registry",), *((task_id,) for task_id in tasks)):
        for seen in shelves.files(*parts):
            stale = is_older(seen.mtime_ns / 1e9, _STALE_DAYS, now=now)
            if stale and file_names.is_temporary(seen.name):
                yield StaleFile(parts, seen, "leftover", _task_in(parts))


def _damaged_journals(
    shelves: _Shelves, held: set[str], ages: Ages, bounds: Retention, *, now: float
) -> Iterator[StaleFile]:
    for seen in shelves.files("sagas"):
        saga_id = file_names.saga_of(seen.name)
        if saga_id is None or saga_id in held:
            continue
        if is_older(_since(seen, saga_id, ages), bounds.days, now=now):
            yield StaleFile(("sagas",), seen, "damaged")


def _damaged_registries(
    shelves: _Shelves, tasks: list[str], bounds: Retention, *, now: float
) -> Iterator[StaleFile]:
    for parts in (("registry",), *((task_id,) for task_id in tasks)):
        files = shelves.files(*parts)
        there = {seen.name for seen in files}
        for seen in files:
            kept = file_names.registry_of(seen.name)
            # While nothing has taken its place, it is all there is.
            if kept is None or kept[0] not in there:
                continue
            aside = datetime.strptime(kept[1], "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
            since = max(seen.mtime_ns / 1e9, aside.timestamp())
            if is_older(since, bounds.days, now=now):
                yield StaleFile(parts, seen, "damaged", _task_in(parts))


def _task_in(parts: tuple[str, ...]) -> str | None:
    return next((part for part in parts if part.startswith("TASK-")), None)
