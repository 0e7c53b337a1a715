"""
Acts in threads of their own, few at once, each with a time after which it counts as hung.

A thread cannot be ended from outside, so a hung act is not ended but told of:
whoever restarts the process ends it. The threads are daemons: who leaves does
not wait for them, and what an act leaves half done, recovery finishes.
"""

from __future__ import annotations

import collections
import contextlib
import os
import threading
import time
from typing import TYPE_CHECKING, Self

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable


@attrs.define(eq=False)
class Chore:
    """One act: to be done, being done, or done."""

    name: str
    act: Callable[[], object] = attrs.field(repr=False)
    began: float = 0.0  #: By the monotonic clock; 0 until it begins.
    ended: float = 0.0
    result: object = attrs.field(default=None, repr=False)
    error: BaseException | None = None

    @property
    def duration_ms(self) -> float:
        """How long it has taken."""
        return round((self.ended - self.began) * 1000, 3)


class Chores:
    """
    What there is to do, begun in the order in which it was given, *at_once* at a time.

    For one thread, which gives and takes; only the acts are in others.
    """

    def __init__(self, *, at_once: int, hang_s: float) -> None:
        self._at_once = at_once
        self._hang_s = hang_s
        self._waiting: collections.OrderedDict[str, Chore] = collections.OrderedDict()
        self._running: dict[str, Chore] = {}
        self._ended: collections.deque[Chore] = collections.deque()
        self._door = threading.Lock()  # Of the pipe: a late act must not write into another file.
        self.fd, self._bell = os.pipe()
        for fd in (self.fd, self._bell):
            os.set_blocking(fd, False)

    def give(self, name: str, act: Callable[[], object]) -> bool:
        """Have *act* done; False if one of that name waits or is being done."""
        if name in self._waiting or name in self._running:
            return False
        self._waiting[name] = Chore(name, act)
        self._begin()
        return True

    def take(self, *, begin_more: bool = True) -> list[Chore]:
        """Return those that are done since the last time. *fd* is readable when there are some."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.fd, 4096)
        taken = []
        while self._ended:
            chore = self._ended.popleft()
            del self._running[chore.name]
            taken.append(chore)
        if begin_more:
            self._begin()
        return taken

    @property
    def names(self) -> list[str]:
        """What is being done, the longest first."""
        return list(self._running)

    def hung(self) -> dict[str, float]:
        """Return those that have been at it for too long, and how long, in seconds."""
        now = time.monotonic()
        return {
            chore.name: round(now - chore.began, 1)
            for chore in self._running.values()
            if not chore.ended and now - chore.began >= self._hang_s
        }

    def next_hang(self) -> float | None:
        """Return when, by the monotonic clock, the next one counts as hung, if none ends."""
        times = [chore.began + self._hang_s for chore in self._running.values()]
        return min((at for at in times if at > time.monotonic()), default=None)

    def _begin(self) -> None:
        while self._waiting and len(self._running) < self._at_once:
            _, chore = self._waiting.popitem(last=False)
            self._running[chore.name] = chore
            chore.began = time.monotonic()
            name = f"sweeper: {chore.name}"
            try:
                threading.Thread(target=self._do, args=[chore], name=name, daemon=True).start()
            except RuntimeError as error:  # No more threads to be had.
                self._end(chore, error)

    def _do(self, chore: Chore) -> None:
        try:
            chore.result = chore.act()
        except BaseException as error:  # noqa: BLE001 - told to whoever takes the chore
            self._end(chore, error)
        else:
            self._end(chore)

    def _end(self, chore: Chore, error: BaseException | None = None) -> None:
        chore.error = error
        chore.ended = time.monotonic()
        self._ended.append(chore)
        with self._door:
            if self._bell >= 0:
                with contextlib.suppress(BlockingIOError):  # Full: it has been rung.
                    os.write(self._bell, b".")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Take no more part in what is still being done."""
        with self._door:
            os.close(self._bell)
            os.close(self.fd)
            self._bell = -1
