"""Checks of the lock files: who holds which, and who died with one."""

from __future__ import annotations

import os
import shlex
import time
from datetime import datetime
from typing import TYPE_CHECKING

import attrs

from orchestrator_core.exceptions import StorageError
from orchestrator_core.operations.doctor.check import (
    Answer,
    Environment,
    failed,
    ok,
    shorten_list,
    warning,
    worst_of,
)
from orchestrator_core.system import locks as kernel
from orchestrator_core.system.lock_owner import LockOwner, kernel_owner_pid, recorded_owner

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_LONG_S = 30.0  #: No lock of a document is held for so long by anyone who is well.


@attrs.frozen
class _Lock:
    path: Path
    is_held: bool
    signed: LockOwner | None  #: Who wrote itself in, and never signed off.

    @property
    def since_s(self) -> float:
        """How long ago it was signed."""
        try:
            signed = datetime.fromisoformat(self.signed.since if self.signed else "")
        except ValueError:
            return 0.0
        return time.time() - signed.timestamp()


def locks(subject: Environment) -> Answer:
    """Look at the lock files of all documents; a journal is its own, and recover tells of those."""
    if subject.layout is None:
        return ok("there is nothing yet")
    found = list(_found(subject.layout.root))
    held = [lock for lock in found if lock.is_held]
    told = (
        f", held now: {shorten_list(f'{each.path} by {_holder(each)}' for each in held)}"
        if held
        else ""
    )
    answers = [answer for lock in found if (answer := _answer(lock)) is not None]
    return worst_of(answers, well=f"{len(found)} lock files{told or ', none held now'}")


def _found(root: Path) -> Iterator[_Lock]:
    for pattern in ("*.json.*lock", "registry/*.json.*lock", "TASK-*/*.json.*lock"):
        for path in sorted(root.glob(pattern)):
            try:
                signed = recorded_owner(path)
                yield _Lock(path, _is_held(path), signed)
            except (FileNotFoundError, StorageError):
                continue  # That is for the check of permissions to say.


def _is_held(path: Path) -> bool:
    """Try it, for as long as it takes to ask: whoever wants it just then waits so long."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        return not kernel.try_lock_shared(fd)
    finally:
        os.close(fd)


def _answer(lock: _Lock) -> Answer | None:
    if lock.is_held:
        if lock.since_s < _LONG_S:
            return None
        found = f"{lock.path} is held for {lock.since_s:.0f} s by {_holder(lock)}"
        pid = _pid(lock)
        if pid is None:
            return failed(found, f"find who it is: lsof {shlex.quote(str(lock.path))}")
        return failed(
            found, f"see what it does: cat /proc/{pid}/wchan; its lock ends with it: kill {pid}"
        )
    if lock.signed is not None and lock.signed.name is None:
        return warning(
            f"{lock.path}: pid {lock.signed.pid} died while it held it, at {lock.signed.since}",
            "nothing by hand: the next to take it clears up; orchestrator-core recover does",
        )
    return None


def _holder(lock: _Lock) -> str:
    if lock.signed is not None and lock.signed.name is not None:
        return f"pid {lock.signed.pid} ({lock.signed.name})"
    pid = _pid(lock)
    return f"pid {pid}" if pid is not None else "an unknown process"


def _pid(lock: _Lock) -> int | None:
    """Return who holds a lock; None for a pid that would mean many processes to ``kill``."""
    signed = lock.signed if lock.signed is not None and lock.signed.name is not None else None
    pid = signed.pid if signed is not None else kernel_owner_pid(lock.path)
    return pid if pid is not None and pid > 0 else None
