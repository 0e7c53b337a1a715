"""
The inventory: which old files there are, how old they are, and which are in use.

The order of the scans makes the inventory safe beside agents that end meanwhile. The archives
are listed first, then the open sagas. An agent with an archived file has begun to end before.
So its saga is either still open, which keeps the file in use, or closed for good.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import attrs

from orchestrator_core.exceptions import JournalDamaged, SagaNotFound, StorageError
from orchestrator_core.operations.retention.policy import StoredFile, is_older
from orchestrator_core.operations.retention.safe_dir import SafeDir

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from orchestrator_core.deployment.context import RootContext
    from orchestrator_core.model.settings import Retention
    from orchestrator_core.saga import Sagas

    ClosedSagas = Mapping[str, os.stat_result]

_ID = r"([A-Za-z0-9][A-Za-z0-9_-]*)"
_NUMBER = r"(?:\.\d+)?"  # For a name that was taken: a_stream.1.jsonl.
_ARCHIVED = re.compile(
    rf"(?:{_ID}_(?:stream|progress|findings){_NUMBER}\.jsonl"
    rf"|deploy_{_ID}{_NUMBER}\.json"
    rf"|agent_prompt_{_ID}{_NUMBER}\.txt)(?:\.gz)?"
)
_DAMAGED_REGISTRY = re.compile(r"([A-Z]+_?[A-Z]*\.json)\.damaged-(\d{8}T\d{6})\.\d+Z")
_DAMAGED_JOURNAL = re.compile(r"(.+?)(?:\.jsonl)?(?:\.\d+)?\.damaged")
_TEMPORARY = re.compile(r"\..+\.\d+-[0-9a-f]{8}\.tmp")

_STALE_DAYS = 1.0  #: A live writer's temporary file exists for milliseconds.


@attrs.frozen
class Inventory:
    """The old files of a root."""

    archived: tuple[StoredFile, ...]  #: Archived files that are not in use.
    in_use: int  #: The number of archived files that are in use.
    journals: ClosedSagas  #: The closed journals that no open saga names, by saga id.
    stale: tuple[tuple[StoredFile, str], ...]  #: Files to remove: damaged or leftover.
    failed: tuple[str, ...]  #: The errors of the scans.


def take_inventory(
    context: RootContext, sagas: Sagas, bounds: Retention, *, now: float
) -> Inventory:
    """
    Scan a root, and change nothing.

    Raises:
        StorageError: The files that open sagas use cannot be determined.
    """
    root, tasks = context.layout.root, context.layout.task_ids()
    failed: list[str] = []
    archives = [file for task in tasks for file in _list(root, (task, "archive"), failed)]
    in_use = _names_in_use(sagas)
    closed = sagas.journals.closed_stats()
    archived = [
        (agent_id, _with_age(file, agent_id, closed))
        for file in archives
        if (agent_id := agent_of(file.name)) is not None
    ]
    free = tuple(file for agent_id, file in archived if agent_id not in in_use)
    directories = {
        parts: _list(root, parts, failed) for parts in ((), ("registry",), *((t,) for t in tasks))
    }
    damaged = [
        *_damaged_journals(_list(root, ("sagas",), failed), in_use, closed),
        *(file for parts, files in directories.items() if parts for file in _damaged(files)),
    ]
    loose = (file for files in directories.values() for file in files)
    stale = [
        # Only a collection writes to an archive, one at a time: its own files are gone by now.
        *((file, "leftover") for file in _temporary(archives)),
        *(
            (file, "leftover")
            for file in _temporary(loose)
            if is_older(file.since, _STALE_DAYS, now=now)
        ),
        *((file, "damaged") for file in damaged if is_older(file.since, bounds.days, now=now)),
    ]
    return Inventory(
        archived=free,
        in_use=len(archived) - len(free),
        journals={saga_id: age for saga_id, age in closed.items() if saga_id not in in_use},
        stale=tuple(stale),
        failed=tuple(failed),
    )


def _list(root: Path, parts: tuple[str, ...], failed: list[str]) -> list[StoredFile]:
    """Return this user's files in a directory; none, and the error, if it cannot be listed."""
    task_id = next((part for part in parts if part.startswith("TASK-")), None)
    try:
        with SafeDir.open(root, *parts) as directory:
            return [
                StoredFile(parts, name, state, state.mtime_ns / 1e9, task_id)
                for name, state in directory.files().items()
            ]
    except FileNotFoundError:
        return []
    except StorageError as error:
        failed.append(str(error))
        return []


def agent_of(name: str) -> str | None:
    """Return the agent of an archived file's name; None if it is no such name."""
    found = _ARCHIVED.fullmatch(name)
    return None if found is None else next(filter(None, found.groups()))


def _with_age(file: StoredFile, saga_id: str, closed: ClosedSagas) -> StoredFile:
    """Return the file, with an age that starts no earlier than the closing of its saga."""
    status = closed.get(saga_id)
    return file if status is None else attrs.evolve(file, since=max(file.since, status.st_mtime))


# --- what open sagas use ------------------------------------------------------------------------


def _names_in_use(sagas: Sagas) -> set[str]:
    """Return the ids of the open sagas, and every id and other text in their receipts."""
    in_use: set[str] = set()
    for saga_id in sagas.journals.ids():
        in_use.add(saga_id)
        try:
            journal = sagas.journals.read(saga_id)
        except (SagaNotFound, JournalDamaged):
            continue  # Closed by now; or unreadable, which is for recovery.
        for entry in journal.entries:
            for text in _texts(entry.data.get("receipt")):
                in_use.add(agent_of(text.rpartition("/")[2]) or text)
    return in_use


def _texts(value: Any) -> Iterator[str]:  # noqa: ANN401 - any JSON
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _texts(each)


# --- what crashes and damage have left ------------------------------------------------------------


def _temporary(files: Iterable[StoredFile]) -> Iterator[StoredFile]:
    return (file for file in files if _TEMPORARY.fullmatch(file.name))


def _damaged_journals(
    files: Iterable[StoredFile], in_use: set[str], closed: ClosedSagas
) -> Iterator[StoredFile]:
    for file in files:
        found = _DAMAGED_JOURNAL.fullmatch(file.name)
        if found is not None and found[1] not in in_use:
            yield _with_age(file, found[1], closed)


def _damaged(files: list[StoredFile]) -> Iterator[StoredFile]:
    """Yield the quarantined registries in one directory. A registry without a successor stays."""
    names = {file.name for file in files}
    for file in files:
        found = _DAMAGED_REGISTRY.fullmatch(file.name)
        if found is not None and found[1] in names:
            at = datetime.strptime(found[2], "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
            yield attrs.evolve(file, since=max(file.since, at.timestamp()))
