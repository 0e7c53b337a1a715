"""
Single-flight for full scans: concurrent callers share the result of one scan.

A scan of all processes, or of all sessions, costs the same for one caller as for
fifty. Each caller names the time since which its answer must hold. It gets the
result of a scan that began after that time.
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Generic, TypeVar

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

_TTL_S = 5.0  #: A result serves callers that arrive at most this long after its scan began.


class SharedScan(Generic[T]):
    """The last result of *scan*, which runs at most once at a time. A forked child starts anew."""

    def __init__(self, scan: Callable[[], T]) -> None:
        self._scan = scan
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._last: _Result[T] | None = None
        self._pid = os.getpid()

    def get(self, *, since: float) -> T:
        """
        Return the result of a scan that began after *since*, by ``time.monotonic``.

        Raises:
            Exception: The scan's error, for each caller that waited for this scan.
        """
        if os.getpid() != self._pid:
            self._reset()  # A thread of the parent may have held the lock during the fork.
        arrived = time.monotonic()
        with self._lock:
            if self._last is None or not self._last.covers(since, arrived):
                self._last = _Result.of(self._scan)
            return self._last.get()


@attrs.frozen
class _Result(Generic[T]):
    """What one scan returned or raised."""

    began: float
    ended: float
    found: T | None = None
    error: Exception | None = None

    @classmethod
    def of(cls, scan: Callable[[], T]) -> _Result[T]:
        began = time.monotonic()
        try:
            found = scan()
        except Exception as error:  # noqa: BLE001 - raised for each caller that waited
            return cls(began, time.monotonic(), error=error)
        return cls(began, time.monotonic(), found=found)

    def covers(self, since: float, arrived: float) -> bool:
        """Return whether a caller that *arrived* then may have this result. Errors do not last."""
        until = self.ended if self.error is not None else self.began + _TTL_S
        return since < self.began and arrived < until

    def get(self) -> T:
        if self.error is not None:
            raise self.error
        return self.found  # type: ignore[return-value]  # what the scan returned, if no error
