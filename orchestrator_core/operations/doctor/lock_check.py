"""The check of the lock files: which process holds each, and which process died with one."""

from __future__ import annotations

import os
import shlex
import time
from typing import TYPE_CHECKING

from orchestrator_core.exceptions import StorageError
from orchestrator_core.operations.doctor.check import Check, Environment, Verdict, shorten_list
from orchestrator_core.system.clock import parse_timestamp
from orchestrator_core.system.locks import (
    LockOwner,
    kernel_owner_pid,
    recorded_owner,
    try_lock_shared,
)

if TYPE_CHECKING:
    from pathlib import Path


_LONG_S = 30.0  #: No healthy process holds the lock of a document for so long.
_LOCK_FILES = ("*.json.*lock", "registry/*.json.*lock", "TASK-*/*.json.*lock")


def locks(environment: Environment) -> Check:
    """Check the lock files of all documents; ``recover`` reports on journals, their own locks."""
    if environment.layout is None:
        return Check.ok("there is no root yet")
    paths = [path for each in _LOCK_FILES for path in sorted(environment.layout.root.glob(each))]
    checks = []
    for path in paths:
        try:
            checks.append(_check(path))
        except (FileNotFoundError, StorageError):
            continue  # The check of permissions reports that.
    held = [check.found for check in checks if check.verdict is Verdict.OK and check.found]
    state = f"held now: {shorten_list(held)}" if held else "none held now"
    return Check.worst_of(checks, well=f"{len(checks)} lock files, {state}")


def _check(path: Path) -> Check:
    """Return a problem with a lock; its path and owner if it is held; an empty result if not."""
    owner = recorded_owner(path)
    if not _is_locked(path):
        return (
            Check.ok("") if owner is None or owner.name is not None else _interrupted(path, owner)
        )
    if owner is None or owner.name is None:
        pid = kernel_owner_pid(path) or 0
        holder = f"pid {pid}" if pid > 0 else "an unknown process"
    else:
        pid, holder = owner.pid, f"pid {owner.pid} ({owner.name})"
    held_s = _age_s(owner)
    if held_s < _LONG_S:
        return Check.ok(f"{path} by {holder}")
    found = f"{path} is held for {held_s:.0f} s by {holder}"
    if pid <= 0:  # For kill, such a pid means many processes.
        return Check.failed(found, f"find the process: lsof {shlex.quote(str(path))}")
    remedy = f"see what it does: cat /proc/{pid}/wchan; its lock ends with it: kill {pid}"
    return Check.failed(found, remedy)


def _is_locked(path: Path) -> bool:
    """
    Return whether another descriptor holds the exclusive lock on *path*.

    The probe takes a shared lock for an instant, and writes nothing.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return not try_lock_shared(fd)
    finally:
        os.close(fd)


def _interrupted(path: Path, owner: LockOwner) -> Check:
    return Check.warning(
        f"{path}: pid {owner.pid} died while it held it, at {owner.since}",
        "nothing by hand: the next owner repairs it; orchestrator-core recover does",
    )


def _age_s(owner: LockOwner | None) -> float:
    """Return how long ago the owner wrote itself into the lock file."""
    since = parse_timestamp(owner.since) if owner is not None else None
    return 0.0 if since is None else time.time() - since
