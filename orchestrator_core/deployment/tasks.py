"""
A task: the directory that its agents' files are in, and its registry.

The directory is made under a name that no task has and gets its own when it is
complete, so a crash leaves no half of a task; what it does leave is locked by
nobody, and swept away when the next task is made.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
from typing import TYPE_CHECKING, Any

from orchestrator_core.exceptions import InvalidInput, StorageError
from orchestrator_core.model import ids
from orchestrator_core.model.records import Task
from orchestrator_core.registry import TASK, Registry
from orchestrator_core.system import durable, locks
from orchestrator_core.system.clock import timestamp
from orchestrator_core.system.names import check_id
from orchestrator_core.system.os_errors import storage_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from orchestrator_core.deployment.context import RootContext

_BUILDING_PREFIX = ".new-"
EXPORTING_PREFIX = ".leaving-"  #: See :mod:`orchestrator_core.operations.retention.remove_task`.
_DIRECTORIES = ("logs", "progress", "findings", "archive", "output", "run")


def create_task(
    context: RootContext,
    description: str,
    *,
    priority: str,
    client_cwd: str | None,
    key: str | None,
    extra: Mapping[str, Any],
) -> Task:
    """Make a task, or return the one with the same *key*; durable when this returns."""
    if not description.strip():
        raise InvalidInput("the task's description is empty", hint="say what is to be done")
    if key is not None:
        check_id("key", key)
        task_id = _find_by_key(context.global_registry.read(), key)
        if task_id is not None and os.path.lexists(context.layout.task_registry(task_id)):
            return _read(context, task_id)
    given = {"task_description": description, "priority": priority, "client_cwd": client_cwd}
    document = _document(context, ids.new_task_id(), {**given, "key": key}, extra)
    if key is None:
        _make(context, document)
        with context.global_registry.transaction() as known:
            _register(known, document)
        return Task.from_document(document)
    # The key first: who dies after that leaves a task that the next caller makes.
    with context.global_registry.transaction() as known:
        winner = _register(known, document)
    return _ensure_created(context, _document(context, winner, {**given, "key": key}, extra))


def _document(
    context: RootContext, task_id: str, given: Mapping[str, Any], extra: Mapping[str, Any]
) -> dict[str, Any]:
    document = {
        "task_id": task_id,
        "task_description": given["task_description"],
        "created_at": timestamp(),
        "workspace": str(context.layout.task(task_id)),
        "workspace_base": str(context.layout.root),
        "client_cwd": given["client_cwd"],
        "status": "INITIALIZED",
        "priority": given["priority"],
        "key": given["key"],
        "agents": [],
        "agent_hierarchy": {},
        "max_agents": context.limits.max_agents,
        "max_depth": context.limits.max_depth,
        "max_concurrent": context.limits.max_concurrent,
        "total_spawned": 0,
        "active_count": 0,
        "completed_count": 0,
    }
    if taken := document.keys() & extra.keys():
        raise InvalidInput(
            f"extra has {sorted(taken)}, which are fields of every task", hint="use other names"
        )
    return document | dict(extra)


def _ensure_created(context: RootContext, document: dict[str, Any]) -> Task:
    """Return a task that has been entered; make it, if nobody has by now."""
    task_id = document["task_id"]
    if not os.path.lexists(context.layout.task_registry(task_id)):
        try:
            _make(context, document)
        except StorageError:
            if not os.path.lexists(context.layout.task_registry(task_id)):
                raise
    return _read(context, task_id)


def _read(context: RootContext, task_id: str) -> Task:
    return Task.from_document(context.task_registry(task_id).read())


def _find_by_key(known: dict[str, Any], key: str | None) -> str | None:
    tasks: dict[str, Any] = known["tasks"]
    if key is None:
        return None
    return next((name for name, entry in tasks.items() if entry.get("key") == key), None)


def _register(known: dict[str, Any], document: dict[str, Any]) -> str:
    task_id: str = document["task_id"]
    holder = _find_by_key(known, document["key"])
    if holder is not None:
        return holder
    known["tasks"][task_id] = {
        "description": document["task_description"],
        "created_at": document["created_at"],
        "status": document["status"],
        "key": document["key"],
    }
    return task_id


def _make(context: RootContext, document: dict[str, Any]) -> None:
    root, task_id = context.layout.root, document["task_id"]
    clean_temp_dirs(root)
    building, fd = _create_building_dir(root, task_id)
    try:
        with storage_errors("make task", building):
            for name in _DIRECTORIES:
                os.mkdir(building / name, 0o700)  # noqa: PTH102 - see durable
        Registry(building / context.layout.task_registry(task_id).name, schema=TASK).create(
            document
        )
        durable.fsync_directory(building)
        with storage_errors("make task", building):
            os.rename(building, context.layout.task(task_id))  # noqa: PTH104 - see durable
        durable.fsync_directory(root)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    finally:
        os.close(fd)


def _create_building_dir(root: Path, task_id: str) -> tuple[Path, int]:
    """Make a directory under a name that no task has; return it with the descriptor of its lock."""
    for number in itertools.count():
        building = root / f"{_BUILDING_PREFIX}{task_id}{f'-{number}' * bool(number)}"
        try:
            with storage_errors("make task", building, allow=(FileExistsError,)):
                os.mkdir(building, 0o700)  # noqa: PTH102 - see durable
        except FileExistsError:
            continue  # Somebody makes the same one, of the same key.
        # Until we have its lock, another maker may take it for a dead one's, and sweep it away.
        gone = (FileNotFoundError,)
        with contextlib.suppress(*gone), storage_errors("make task", building, allow=gone):
            fd = os.open(building, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            if locks.try_lock(fd) and os.path.lexists(building):
                return building, fd
            os.close(fd)
    raise AssertionError("there is always a next number")


def clean_temp_dirs(root: Path) -> None:
    """Remove what makers that died have left, and put back what dying removers had taken."""
    for left in root.glob(f"{_BUILDING_PREFIX}*"):
        _if_unlocked(left, lambda path: shutil.rmtree(path, ignore_errors=True))
    for left in root.glob(f"{EXPORTING_PREFIX}*"):
        _if_unlocked(left, _restore)


def _if_unlocked(left: Path, act: Callable[[Path], None]) -> None:
    try:
        fd = os.open(left, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if locks.try_lock(fd):
            act(left)
    finally:
        os.close(fd)


def _restore(left: Path) -> None:
    place = left.with_name(left.name.removeprefix(EXPORTING_PREFIX))
    if os.path.lexists(left) and not os.path.lexists(place):
        with contextlib.suppress(OSError):  # The next one tries again.
            os.rename(left, place)  # noqa: PTH104 - see durable
            durable.fsync_directory(left.parent)
