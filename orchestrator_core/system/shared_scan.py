"""
Looks at many things at once, that any number of threads may share.

To look at all processes, or at all sessions, costs the same for one who asks as for
fifty. Whoever asks gets what a look finds that has begun after a moment he names: the
one that is under way is another's if it began too early, and then he shares the next.
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Generic, TypeVar

from orchestrator_core.exceptions import CouldNotAsk

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

_TTL_S = 5.0  #: A pass serves late comers for so long, at most.


class SharedScan(Generic[T]):
    """SharedScan over *what* there is, one at a time. A forked child has its own."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._reset()

    def _reset(self) -> None:
        self._lock, self._run_lock = threading.Lock(), threading.Lock()
        self._next: _Scan[T] | None = None  #: Has not begun.
        self._last: _Scan[T] = _Scan()  #: The last that has; it may be under way.
        self._pid = os.getpid()  # Now all is of this process, and not before.

    def get(self, look: Callable[[], T], *, since: float) -> T:
        """
        Return what a *look* finds that began after *since*, by ``time.monotonic``.

        Raises:
            CouldNotAsk: Another's look, that was to be ours, was interrupted.
            Exception: What the look raised; it is everybody's who shares it.
        """
        if os.getpid() != self._pid:
            self._reset()  # No lock stays taken that a thread of our parent's held.
        with self._lock:
            is_first = False
            mine = self._last if self._last.covers(since) else self._next
            if mine is None:
                mine = self._next = _Scan()
                is_first = True
        if is_first:
            try:
                self._run(mine, look)
            except BaseException:
                with self._lock:
                    if self._next is mine:
                        self._next = None
                mine.fail(CouldNotAsk(f"the look at all {self._what} was interrupted"))
                raise
        return mine.result()

    def _run(self, mine: _Scan[T], look: Callable[[], T]) -> None:
        with self._run_lock:
            with self._lock:
                self._next, self._last = None, mine  # Who comes now may have to wait again.
                mine.begin()
            mine.run(look)


class _Scan(Generic[T]):
    """One pass, that any number may wait for."""

    def __init__(self) -> None:
        self._is_over = threading.Event()
        self._found: list[T] = []
        self._error: Exception | None = None
        self._begun: float | None = None

    def begin(self) -> None:
        self._begun = time.monotonic()

    def covers(self, since: float) -> bool:
        """Whether all that it finds was so after *since*, and not too long ago."""
        if self._begun is None or self._error is not None:
            return False
        return since < self._begun and time.monotonic() < self._begun + _TTL_S

    def run(self, look: Callable[[], T]) -> None:
        try:
            self._found.append(look())
        except Exception as error:  # noqa: BLE001 - it is for all who wait
            self.fail(error)
        else:
            self._is_over.set()

    def fail(self, error: Exception) -> None:
        """Let all who wait for it have an error."""
        self._error = error
        self._is_over.set()

    def result(self) -> T:
        self._is_over.wait()
        if self._error is not None:
            raise self._error
        return self._found[0]
