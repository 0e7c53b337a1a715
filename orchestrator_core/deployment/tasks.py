"""
Tasks: a task is a directory for its agents' files, with a registry.

The directory is built under a temporary name, and renamed when it is complete: a crash
leaves no half of a task. What a crash does leave is locked by no process, and is removed
when the next task is created.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from orchestrator_core.exceptions import InvalidInput, StorageError
from orchestrator_core.model import bounds, ids
from orchestrator_core.model.records import Task
from orchestrator_core.registry import TASK, Registry
from orchestrator_core.registry.operations import add_task, find_task
from orchestrator_core.system import durable, locks
from orchestrator_core.system.clock import timestamp
from orchestrator_core.system.names import check_id
from orchestrator_core.system.os_errors import storage_errors
from orchestrator_core.system.surrogates import replace_surrogates

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator_core.deployment.context import RootContext

_BUILDING_PREFIX = ".new-"
EXPORTING_PREFIX = ".leaving-"  #: See :mod:`orchestrator_core.operations.retention.remove_task`.
_DIRECTORIES = ("logs", "progress", "findings", "archive", "output", "run")


class TaskCreator:
    """The creation of tasks below one root."""

    def __init__(self, context: RootContext) -> None:
        self._context = context
        self._layout = context.layout

    def create(
        self,
        description: str,
        *,
        priority: str,
        client_cwd: str | None,
        key: str | None,
        extra: Mapping[str, Any],
    ) -> Task:
        """Create a task, or return the one with the same *key*; durable when this returns."""
        bounds.check_text("the task's description", description)
        if not isinstance(extra, Mapping):
            raise InvalidInput(f"extra must be a mapping, not {type(extra).__name__}")
        if client_cwd is not None:
            bounds.check_text("client_cwd", client_cwd)
        if not description.strip():
            raise InvalidInput("the task's description is empty", hint="say what is to be done")
        bounds.check_length("the task's description", description, bounds.DESCRIPTION_MAX)
        bounds.check_length("the task's priority", priority, bounds.LABEL_MAX)
        bounds.check_data("the task's extra", replace_surrogates(dict(extra)))
        registry = self._context.global_registry
        if key is not None:
            check_id("key", key)
            known = find_task(registry.read(), key)
            if known is not None and self._exists(known):
                return self._read(known)
        document = self._new_document(description, priority, client_cwd, key, extra)
        if key is None:
            self._build(document)
            with registry.transaction() as entries:
                add_task(entries, document)
            return Task.from_document(document)
        # The key first: after a crash here, the next caller with this key creates the task.
        with registry.transaction() as entries:
            document["task_id"] = add_task(entries, document)
        document["workspace"] = str(self._layout.task(document["task_id"]))
        return self._ensure_created(document)

    def discard(self, task_id: str) -> bool:
        """Remove a task that has no agent; return False if it has one."""
        if self._context.task_registry(task_id).read().get("agents"):
            return False
        # Under this name it is a leftover, and a crash leaves it to the next creator.
        leaving = self._layout.root / f"{_BUILDING_PREFIX}{task_id}-empty"
        with storage_errors("remove task", leaving):
            os.rename(self._layout.task(task_id), leaving)  # noqa: PTH104 - see durable
        shutil.rmtree(leaving, ignore_errors=True)
        durable.fsync_directory(self._layout.root)
        with self._context.global_registry.transaction() as entries:
            entries["tasks"].pop(task_id, None)
        return True

    def _new_document(
        self,
        description: str,
        priority: str,
        client_cwd: str | None,
        key: str | None,
        extra: Mapping[str, Any],
    ) -> dict[str, Any]:
        task_id, limits = ids.new_task_id(), self._context.limits
        document: dict[str, Any] = {
            "task_id": task_id,
            "task_description": description,
            "created_at": timestamp(),
            "workspace": str(self._layout.task(task_id)),
            "workspace_base": str(self._layout.root),
            "client_cwd": client_cwd,
            "status": "INITIALIZED",
            "priority": priority,
            "key": key,
            "agents": [],
            "agent_hierarchy": {},
            "max_agents": limits.max_agents,
            "max_depth": limits.max_depth,
            "max_concurrent": limits.max_concurrent,
            "total_spawned": 0,
            "active_count": 0,
            "completed_count": 0,
        }
        if taken := document.keys() & extra.keys():
            raise InvalidInput(
                f"extra has {sorted(taken)}, which are fields of every task", hint="use other names"
            )
        replaced: dict[str, Any] = replace_surrogates(document | dict(extra))
        return replaced

    def _ensure_created(self, document: dict[str, Any]) -> Task:
        """Return a task that has its entry; build it, unless another caller has by now."""
        task_id = document["task_id"]
        if not self._exists(task_id):
            try:
                self._build(document)
            except StorageError:
                if not self._exists(task_id):
                    raise
        return self._read(task_id)

    def _exists(self, task_id: str) -> bool:
        return os.path.lexists(self._layout.task_registry(task_id))

    def _read(self, task_id: str) -> Task:
        return Task.from_document(self._context.task_registry(task_id).read())

    def _build(self, document: dict[str, Any]) -> None:
        root, task_id = self._layout.root, document["task_id"]
        clean_temp_dirs(root)
        building, fd = _create_building_dir(root, task_id)
        try:
            with storage_errors("make task", building):
                for name in _DIRECTORIES:
                    os.mkdir(building / name, 0o700)  # noqa: PTH102 - see durable
            registry_name = self._layout.task_registry(task_id).name
            Registry(building / registry_name, schema=TASK).create(document)
            durable.fsync_directory(building)
            with storage_errors("make task", building):
                os.rename(building, self._layout.task(task_id))  # noqa: PTH104 - see durable
            durable.fsync_directory(root)
        except BaseException:
            shutil.rmtree(building, ignore_errors=True)
            raise
        finally:
            os.close(fd)


def _create_building_dir(root: Path, task_id: str) -> tuple[Path, int]:
    """Create a directory under a temporary name; return it with the descriptor of its lock."""
    for number in itertools.count():
        building = root / f"{_BUILDING_PREFIX}{task_id}{f'-{number}' * bool(number)}"
        try:
            with storage_errors("make task", building, allow=(FileExistsError,)):
                os.mkdir(building, 0o700)  # noqa: PTH102 - see durable
        except FileExistsError:
            continue  # Another caller builds the task of the same key.
        # Before it is locked, another process may take it for a leftover, and remove it.
        gone = (FileNotFoundError,)
        with contextlib.suppress(*gone), storage_errors("make task", building, allow=gone):
            fd = os.open(building, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            if _lock_unless_replaced(fd, building):
                return building, fd
    raise AssertionError("there is always a next number")


def _lock_unless_replaced(fd: int, directory: Path) -> bool:
    """Lock a new directory; close *fd* and return False if another process removed it."""
    is_own = False
    try:
        is_own = locks.try_lock(fd) and locks.same_file(fd, directory)
        return is_own
    finally:
        if not is_own:
            os.close(fd)


def clean_temp_dirs(root: Path) -> None:
    """Remove tasks that were never completed, and restore those whose removal was interrupted."""
    for left in [*root.glob(f"{_BUILDING_PREFIX}*"), *root.glob(f"{EXPORTING_PREFIX}*")]:
        try:
            fd = os.open(left, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            # Its owner is alive, or has completed it, and the name is another owner's by now.
            if not (locks.try_lock(fd) and locks.same_file(fd, left)):
                continue
            if left.name.startswith(EXPORTING_PREFIX):
                _restore(left)
            else:
                shutil.rmtree(left, ignore_errors=True)
        finally:
            os.close(fd)


def _restore(left: Path) -> None:
    place = left.with_name(left.name.removeprefix(EXPORTING_PREFIX))
    if os.path.lexists(left) and not os.path.lexists(place):
        with contextlib.suppress(OSError):  # The next creation of a task tries again.
            os.rename(left, place)  # noqa: PTH104 - see durable
            durable.fsync_directory(left.parent)
