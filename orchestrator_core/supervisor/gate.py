"""
The gate: no agent without a commit, and no waiting for the dead.

The deployer holds the kernel lock of the saga's journal until the commit record
is durable. The supervisor waits for that lock, and when it has it, reads. The
record is there: the agent may run. It is not: the deployer gave up or died, and
there is nothing to start. The kernel lets go of a dead deployer's lock, so
nobody waits for longer than the deployer lives. It shares the lock while it
reads: who recovers the saga at that moment sees that nobody owns it.

The journal's lines start with their kind, so that they can be told apart
without reading JSON; only a line that has its newline counts.
"""

from __future__ import annotations

import fcntl
import os


def wait_for_commit(path: str) -> int | None:
    """
    Wait until the journal at *path* is free.

    Returns its descriptor if the saga is committed, None if there is nothing to start.
    """
    try:
        journal = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    fcntl.flock(journal, fcntl.LOCK_SH)
    try:
        return journal if is_committed(journal) else None
    finally:
        fcntl.flock(journal, fcntl.LOCK_UN)


def is_committed(journal: int) -> bool:
    """Tell whether the agent may run: a commit, and nobody who has begun to undo it."""
    seen = _kinds(journal)
    return b"commit" in seen and not seen & {b"unwind", b"close"}


def is_unwinding(journal: int, path: str | None = None) -> bool:
    """Tell whether somebody has begun to unwind the saga."""
    return bool(_current_kinds(journal, path) & {b"unwind", b"close"})


def end_requested(journal: int, path: str | None = None) -> bool:
    """Tell whether the agent's end was asked for from inside."""
    return b"request" in _current_kinds(journal, path)


def _current_kinds(journal: int, path: str | None) -> set[bytes]:
    """
    Return the kinds of lines in *journal*, and in what is at its *path* by now.

    Recovery puts a rebuilt journal where a damaged one was, so ours may be the old one.
    """
    seen = _kinds(journal)
    if path is None:
        return seen
    try:
        latest = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return seen | {b"close"}
    try:
        return seen | _kinds(latest)
    finally:
        os.close(latest)


def _kinds(journal: int) -> set[bytes]:
    data = os.pread(journal, os.fstat(journal).st_size, 0)
    begun = (b"\n" + data).split(b'\n{"kind":"')[1:]
    if begun and b"\n" not in begun[-1]:
        begun.pop()
    return {line.partition(b'"')[0] for line in begun if b'"' in line}  # Its closing quote.
