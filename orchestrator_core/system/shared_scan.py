"""
Single-flight for full scans: callers that wait at the same time share one scan.

A scan of all processes costs the same for one caller as for fifty. Each caller gets the
result of a scan that began after its call, so it is as new as the result of a private scan.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class SharedScan(Generic[T]):
    """Runs *scan* for its callers, one run at a time. A forked child starts anew."""

    def __init__(self, scan: Callable[[], T]) -> None:
        self._scan = scan
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._begun = 0  #: The number of scans that have begun.
        self._completed = 0  #: The number of the last scan that was not interrupted.
        self._result: T | Exception | None = None
        self._pid = os.getpid()

    def get(self) -> T:
        """
        Return the result of a scan that began after this call.

        Raises:
            Exception: The scan's error, for every caller that waited for that scan.
        """
        if os.getpid() != self._pid:
            self._reset()  # A thread of the parent may have held the lock during the fork.
        begun_before = self._begun
        with self._lock:
            if self._completed <= begun_before:
                self._begun += 1
                try:
                    self._result = self._scan()
                except Exception as error:  # noqa: BLE001 - raised below
                    self._result = error
                self._completed = self._begun
            if isinstance(self._result, Exception):
                raise self._result
            return self._result  # type: ignore[return-value]  # a scan has run
