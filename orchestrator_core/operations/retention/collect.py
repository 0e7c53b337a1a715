"""
A collection: look, choose, and carry it out, one file at a time.

What frees space comes first, what needs some comes last. One file that cannot be
removed is in the report, and stops nothing else.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from typing import TYPE_CHECKING

import attrs

from orchestrator_core.deployment import tasks
from orchestrator_core.exceptions import LockTimeout, OrchestratorError, StorageError
from orchestrator_core.operations import metrics
from orchestrator_core.operations.retention import remove_task as removal
from orchestrator_core.operations.retention.inventory import take_inventory
from orchestrator_core.operations.retention.policy import choose, is_older
from orchestrator_core.operations.retention.retention_report import GcItem, GcReport
from orchestrator_core.operations.retention.safe_dir import SafeDir
from orchestrator_core.system import locks
from orchestrator_core.system.clock import ms_since
from orchestrator_core.system.os_errors import storage_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from orchestrator_core.deployment.context import RootContext
    from orchestrator_core.operations.retention.inventory import Inventory, StaleFile
    from orchestrator_core.operations.retention.policy import ArchivedFile
    from orchestrator_core.operations.retention.safe_dir import FileState
    from orchestrator_core.saga import Sagas

    File = ArchivedFile | StaleFile

_AT_ONCE = 500  #: Journals that are counted under one lock.


def collect(
    context: RootContext, sagas: Sagas, *, dry_run: bool = False, now: float | None = None
) -> GcReport:
    """Do what :meth:`Orchestrator.gc` promises; *now* stands in for the clock."""
    start = time.monotonic()
    bounds = context.settings.retention
    now = time.time() if now is None else now
    with contextlib.nullcontext() if dry_run else _alone(context):
        unfinished = [] if dry_run else _finish_what_others_began(context, sagas)
        past = take_inventory(context, sagas, bounds, now=now)
        choice = choose(past.archived, bounds, now=now)
        old = [
            saga_id
            for saga_id, age in past.journals.items()
            if is_older(age.st_mtime, bounds.days, now=now)
        ]
        collection = _Collection(context, sagas, past, dry_run=dry_run)
        collection.failed += [*unfinished, *past.failed]
        collection.remove([*choice.remove, *((loose, loose.why) for loose in past.loose)])
        collection.forget(old)
        collection.compress(choice.compress)
    return collection.report(duration_ms=ms_since(start))


@contextlib.contextmanager
def _alone(context: RootContext) -> Iterator[None]:
    """Be the only collection at work: by a lock on the registries' directory, which is no leaf."""
    directory = context.layout.global_registry.parent
    with storage_errors("lock", directory):
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if not locks.try_lock(fd):
            raise LockTimeout(
                f"somebody else is collecting what is old in {context.layout.root}",
                hint="what is to go goes without us",
            )
        yield
    finally:
        os.close(fd)


def _finish_what_others_began(context: RootContext, sagas: Sagas) -> list[str]:
    """Finish what killed ones have left half-way; return what could not be."""
    tasks.clean_temp_dirs(context.layout.root)
    return removal.finish_removals(context, sagas)


@attrs.define
class _Collection:
    """One collection, under way."""

    context: RootContext
    sagas: Sagas
    past: Inventory
    dry_run: bool = attrs.field(kw_only=True)
    removed: list[GcItem] = attrs.field(factory=list)
    compressed: list[GcItem] = attrs.field(factory=list)
    journals: list[GcItem] = attrs.field(factory=list)
    failed: list[str] = attrs.field(factory=list)

    def report(self, *, duration_ms: float) -> GcReport:
        return GcReport(
            dry_run=self.dry_run,
            removed=tuple(self.removed),
            compressed=tuple(self.compressed),
            journals=tuple(self.journals),
            failed=tuple(self.failed),
            held=self.past.held,
            duration_ms=duration_ms,
        )

    def remove(self, files: Iterable[tuple[File, str]]) -> None:
        if self.dry_run:
            self.removed += [_item(file, why, file.seen.size) for file, why in files]
        else:
            self.removed += self._each(files, lambda folder, seen: folder.remove(seen))

    def compress(self, files: Iterable[File]) -> None:
        chosen = [(file, "compressed") for file in files]
        if self.dry_run:
            self.compressed += [_item(file, why, 0) for file, why in chosen]
        else:
            self.compressed += self._each(chosen, lambda folder, seen: folder.compress(seen))

    def _each(
        self, files: Iterable[tuple[File, str]], act: Callable[[SafeDir, FileState], int]
    ) -> Iterator[GcItem]:
        """Act on each file, directory by directory, and yield what came of those that it did."""
        in_order = sorted(files, key=lambda one: one[0].parts)
        for parts, group in itertools.groupby(in_order, key=lambda one: one[0].parts):
            try:
                with SafeDir.open(self.context.layout.root, *parts) as folder:
                    for file, why in group:
                        yield from self._one(folder, file, why, act)
                    folder.settle()
            except FileNotFoundError:
                continue  # The task is gone, and all that was in it.
            except StorageError as error:
                self.failed.append(str(error))

    def _one(
        self, folder: SafeDir, file: File, why: str, act: Callable[[SafeDir, FileState], int]
    ) -> Iterator[GcItem]:
        try:
            yield _item(file, why, act(folder, file.seen))
        except FileNotFoundError:
            return  # Somebody else was first.
        except StorageError as error:
            self.failed.append(str(error))

    def forget(self, saga_ids: list[str]) -> None:
        if self.dry_run:
            self.journals += [self._journal(saga_id) for saga_id in saga_ids]
            return
        # At least once: a killed one may have counted some, and not removed them.
        for first in range(0, max(1, len(saga_ids)), _AT_ONCE):
            try:
                batch = saga_ids[first : first + _AT_ONCE]
                forgotten = metrics.compact_journals(self.context, self.sagas, batch)
            except OrchestratorError as error:
                self.failed.append(f"journals: {error}")
                return
            known = set(forgotten.sagas) & self.past.journals.keys()
            self.journals += [self._journal(saga_id) for saga_id in sorted(known)]
            self.failed += [f"journal {name}: {why}" for name, why in forgotten.failed.items()]

    def _journal(self, saga_id: str) -> GcItem:
        size = self.past.journals[saga_id].st_size
        path = f"sagas/closed/{saga_id}.jsonl"
        return GcItem(path=path, why="journal", bytes=size, freed=size)


def _item(file: File, why: str, freed: int) -> GcItem:
    return GcItem(path=file.path, why=why, task_id=file.task_id, bytes=file.seen.size, freed=freed)
