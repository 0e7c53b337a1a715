"""
A collection: take the inventory, select by the policy, and remove or compress file by file.

Removal comes first, because it frees space, and compression last, because it needs some. An
error of one file is in the report, and stops nothing else.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from typing import TYPE_CHECKING

import attrs

from orchestrator_core.deployment import tasks
from orchestrator_core.exceptions import LockTimeout, OrchestratorError, StorageError
from orchestrator_core.operations.metrics.summary import compact_journals
from orchestrator_core.operations.retention import GcItem, GcReport
from orchestrator_core.operations.retention.inventory import take_inventory
from orchestrator_core.operations.retention.policy import is_older, select
from orchestrator_core.operations.retention.remove_task import finish_removals
from orchestrator_core.operations.retention.safe_dir import SafeDir, locked_directory
from orchestrator_core.system.clock import ms_since

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from orchestrator_core.deployment.context import RootContext
    from orchestrator_core.operations.retention.inventory import Inventory
    from orchestrator_core.operations.retention.policy import StoredFile
    from orchestrator_core.operations.retention.safe_dir import FileState
    from orchestrator_core.saga import Sagas

    Action = Callable[[SafeDir, str, FileState], int]  #: Returns the bytes that it has freed.

_BATCH = 500  #: Journals that are counted under one lock.


def collect(
    context: RootContext, sagas: Sagas, *, dry_run: bool = False, now: float | None = None
) -> GcReport:
    """Implement :meth:`Orchestrator.gc`; *now* replaces the clock."""
    start = time.monotonic()
    bounds = context.settings.retention
    now = time.time() if now is None else now
    with contextlib.nullcontext() if dry_run else _exclusive(context):
        failed: list[str] = []
        if not dry_run:  # Finish what killed processes have left.
            tasks.clean_temp_dirs(context.layout.root)
            failed = finish_removals(context, sagas)
        inventory = take_inventory(context, sagas, bounds, now=now)
        selection = select(inventory.archived, bounds, now=now)
        old = [
            saga_id
            for saga_id, status in inventory.journals.items()
            if is_older(status.st_mtime, bounds.days, now=now)
        ]
        collection = _Collection(context, sagas, inventory, dry_run, [*failed, *inventory.failed])
        removed = collection.apply(SafeDir.remove, [*selection.remove, *inventory.stale])
        journals = collection.compact(old)
        compressed = collection.apply(
            SafeDir.compress, [(file, "compressed") for file in selection.compress]
        )
    return GcReport(
        dry_run=dry_run,
        removed=tuple(removed),
        compressed=tuple(compressed),
        journals=tuple(journals),
        failed=tuple(collection.failed),
        held=inventory.in_use,
        duration_ms=ms_since(start),
    )


@contextlib.contextmanager
def _exclusive(context: RootContext) -> Iterator[None]:
    """Hold the lock of the only collection: on the directory of the registries."""
    with locked_directory(context.layout.global_registry.parent, "lock") as is_free:
        if not is_free:
            raise LockTimeout(
                f"another collection runs on {context.layout.root}",
                hint="nothing: that one removes what is due",
            )
        yield


@attrs.define
class _Collection:
    """A running collection, and its errors."""

    context: RootContext
    sagas: Sagas
    inventory: Inventory
    dry_run: bool
    failed: list[str]

    def apply(self, action: Action, files: Iterable[tuple[StoredFile, str]]) -> list[GcItem]:
        """Apply *action* to each file, directory by directory, and return the successes."""
        if self.dry_run:  # What compression would free is unknown.
            removes = action is SafeDir.remove
            return [_item(file, why, file.state.size if removes else 0) for file, why in files]
        done: list[GcItem] = []
        in_order = sorted(files, key=lambda one: one[0].parts)
        for parts, group in itertools.groupby(in_order, key=lambda one: one[0].parts):
            with self._record_errors(), SafeDir.open(self.context.layout.root, *parts) as directory:
                for file, why in group:
                    with self._record_errors():
                        done.append(_item(file, why, action(directory, file.name, file.state)))
                directory.sync()
        return done

    @contextlib.contextmanager
    def _record_errors(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            pass  # Another process has removed the file, or the task.
        except StorageError as error:
            self.failed.append(str(error))

    def compact(self, saga_ids: list[str]) -> list[GcItem]:
        """Count and remove closed journals, and return the removed ones."""
        if self.dry_run:
            return [self._journal(saga_id) for saga_id in saga_ids]
        done: list[GcItem] = []
        # At least once: a killed collection may have counted journals without removing them.
        for first in range(0, max(1, len(saga_ids)), _BATCH):
            try:
                batch = saga_ids[first : first + _BATCH]
                result = compact_journals(self.context, self.sagas, batch)
            except OrchestratorError as error:
                self.failed.append(f"journals: {error}")
                return done
            known = set(result.sagas) & self.inventory.journals.keys()
            done += [self._journal(saga_id) for saga_id in sorted(known)]
            self.failed += [f"journal {name}: {why}" for name, why in result.failed.items()]
        return done

    def _journal(self, saga_id: str) -> GcItem:
        size = self.inventory.journals[saga_id].st_size
        path = f"sagas/closed/{saga_id}.jsonl"
        return GcItem(path=path, why="journal", bytes=size, freed=size)


def _item(file: StoredFile, why: str, freed: int) -> GcItem:
    size = file.state.size
    return GcItem(path=file.path, why=why, task_id=file.task_id, bytes=size, freed=freed)
