"""
The gate: the agent starts only after the deployment is committed.

The deployer holds the kernel lock of the saga's journal until the commit record is
durable. The supervisor waits for that lock, then reads the journal:

- With a commit record, the agent may run.
- Without one, the deployer gave up or died, and there is nothing to start.

The kernel releases a dead deployer's lock, so the wait ends when the deployer does. The
supervisor takes the lock shared: a process that recovers the saga at the same time sees
that the saga has no owner.

Every line of the journal starts with its kind, so the gate needs no JSON parser. Only a
line with its newline counts.
"""

from __future__ import annotations

import fcntl
import posix

_ENDED = {b"unwind", b"close"}  #: After these records the saga has been, or is being, undone.


def wait_for_commit(path: str) -> int | None:
    """
    Wait until the journal at *path* is unlocked.

    Returns the journal's descriptor if the saga is committed, None if there is nothing to
    start.
    """
    try:
        journal = posix.open(path, posix.O_RDWR | posix.O_NOFOLLOW | posix.O_CLOEXEC)
    except FileNotFoundError:
        return None
    fcntl.flock(journal, fcntl.LOCK_SH)
    try:
        return journal if is_committed(journal) else None
    finally:
        fcntl.flock(journal, fcntl.LOCK_UN)


def is_committed(journal: int) -> bool:
    """Return whether the agent may run: the saga is committed, and its undo has not begun."""
    kinds = _kinds(journal)
    return b"commit" in kinds and not kinds & _ENDED


def is_unwinding(journal: int, path: str | None = None) -> bool:
    """Return whether the saga's undo has begun; *path* as in :func:`end_requested`."""
    return bool(_current_kinds(journal, path) & _ENDED)


def end_requested(journal: int, path: str | None = None) -> bool:
    """
    Return whether the agent requested its own end.

    *path* is where the current journal is. Recovery replaces a damaged journal by a rebuilt
    one, so *journal* may be the old one.
    """
    return b"request" in _current_kinds(journal, path)


def _current_kinds(journal: int, path: str | None) -> set[bytes]:
    kinds = _kinds(journal)
    if path is None:
        return kinds
    try:
        latest = posix.open(path, posix.O_RDONLY | posix.O_NOFOLLOW | posix.O_CLOEXEC)
    except FileNotFoundError:
        return kinds | {b"close"}
    try:
        return kinds | _kinds(latest)
    finally:
        posix.close(latest)


def _kinds(journal: int) -> set[bytes]:
    data = posix.pread(journal, posix.fstat(journal).st_size, 0)
    lines = (b"\n" + data).split(b'\n{"kind":"')[1:]
    if lines and b"\n" not in lines[-1]:
        lines.pop()
    return {line.partition(b'"')[0] for line in lines if b'"' in line}  # Its closing quote.
