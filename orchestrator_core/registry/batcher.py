"""
A crowd: threads that have the same kind of work to do, and do it in step.

Whatever an update of a registry changes, it costs two fsyncs, a rename, and the whole
document read and written. Threads that end fifty agents at once change the same few
registries three times each. So only a few of them work at a time, and whoever comes to
an update waits, and lets another work. When none can go on, one thread for each registry
makes one update of all that is wanted there. (PostgreSQL's ``commit_delay``, which waits
for ``commit_siblings``, is the same idea; here it is known who may still come.)

That few work at a time costs nothing as long as they do work, since Python lets one at a
time anyhow, and to be switched to and fro costs a lot. Where they wait, for a disk or for
processes, more are let in: :meth:`Crowd.widen`.
"""

from __future__ import annotations

import collections
import contextlib
import os
import threading
from typing import TYPE_CHECKING, Any

from orchestrator_core.exceptions import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from orchestrator_core.registry.document import Document

    Change = Callable[[Document], Any]

_MOMENT_S = 0.02  #: If nobody comes or goes for so long, nobody is waited for any more.


class Crowd:
    """
    Threads of one process that do the same, *at_once* of them at a time.

    Each is in it while it works (:meth:`joined`). Then its updates of registries are made
    together with those of the others; see :meth:`update`. Not for the main thread, which
    a signal may interrupt while others count on it.
    """

    def __init__(self, at_once: int) -> None:
        self.moves = 0  #: How often somebody has come to work, or stopped.
        self.places = self._free = at_once
        self._pid = os.getpid()
        self._guard = threading.Lock()
        self._queue: collections.deque[threading.Lock] = collections.deque()  #: For a place.
        self._wishes: dict[str, list[_Wish]] = {}  #: By registry: who waits for the others.
        self._called = 0  #: How many of these have been called, and are not at work again.

    @contextlib.contextmanager
    def joined(self) -> Iterator[None]:
        """Be one of the crowd for the length of a ``with``, which begins when there is room."""
        self._enter()
        _own.crowd = self
        try:
            yield
        finally:
            _own.crowd = None
            if self.is_ours:
                with self._guard:
                    self._leave()

    @property
    def is_ours(self) -> bool:
        """Whether this is the process whose threads it is of; a child that it forks is alone."""
        return self._pid == os.getpid()

    def widen(self, to: int) -> None:
        """Let so many work at once, if that is more: those who do are seen to wait."""
        with self._guard:
            for _ in range(self.places, to):
                self.places += 1
                self._give_place()

    def update(self, path: str, change: Change, alone: Callable[[Change], Any]) -> Any:  # noqa: ANN401 - what *change* returns
        """
        Update the registry at *path* as *alone* does, together with whoever else wants to.

        Nobody's change is mixed with another's: if one raises, or cannot be written, each is
        made alone, and so is called a second time. What the disk refuses, it refuses all.
        """
        wish = _Wish(change)
        with self._guard:
            self._wishes.setdefault(path, []).append(wish)
            self._leave()
        self._await_call(path, wish)
        try:
            if len(wish.together) > 1:
                _fulfil(wish.together, alone)
        finally:
            self._enter(was_called=True)
        if wish.error is not None:
            raise wish.error
        return wish.result[0] if wish.result else alone(change)

    def _await_call(self, path: str, wish: _Wish) -> None:
        """Wait for the others, as long as any of them is on the way."""
        moves = self.moves
        while not wish.called.acquire(timeout=_MOMENT_S):
            with self._guard:
                if moves == self.moves:
                    self._call(path)  # Unless another was quicker.
                moves = self.moves

    # --- places; but for _enter, all are called with the guard held ---------------------------

    def _enter(self, *, was_called: bool = False) -> None:
        """Wait for a place."""
        with self._guard:
            self._called -= was_called
            if self._free:
                self._free -= 1
                self.moves += 1
                return
            place = threading.Lock()
            place.acquire()
            self._queue.append(place)
        place.acquire()

    def _leave(self) -> None:
        """Give up a place; if nobody is at work then, or on the way to it, call all who wait."""
        self._give_place()
        if self._free == self.places and not self._called:
            for path in list(self._wishes):
                self._call(path)

    def _give_place(self) -> None:
        self.moves += 1
        if self._queue:
            self._queue.popleft().release()
        else:
            self._free += 1

    def _call(self, path: str) -> None:
        """Let the first who waits for a registry see to all who do."""
        wishes = self._wishes.pop(path, None)
        if wishes:
            self._called += len(wishes)
            wishes[0].together = wishes
            wishes[0].called.release()


def of_this_thread() -> Crowd | None:
    """Return the crowd that the calling thread is one of, if it is."""
    crowd: Crowd | None = getattr(_own, "crowd", None)
    return crowd if crowd is not None and crowd.is_ours else None


_own = threading.local()


class _Wish:
    """A change that somebody waits for."""

    def __init__(self, change: Change) -> None:
        self.change = change
        self.called = threading.Lock()  #: Free as soon as there is something to be done, or told.
        self.called.acquire()
        self.together: list[_Wish] = []  #: Which ones to fulfil: this one, and others with it.
        self.result: list[Any] = []
        self.error: Exception | None = None


def _fulfil(wishes: list[_Wish], alone: Callable[[Change], Any]) -> None:
    """Make all changes by one update. Who is then left with neither result nor error is alone."""
    are_begun = are_made = False

    def all_of_them(document: Document) -> list[Any]:
        nonlocal are_begun, are_made
        are_begun = True
        results = [wish.change(document) for wish in wishes]
        are_made = True
        return results

    try:
        results = alone(all_of_them)
    except Exception as error:  # noqa: BLE001 - it is raised to whom it concerns
        # What a change raised, or that it cannot be written, is its own, whoever's it is.
        is_ones = isinstance(error, InvalidInput | TypeError) if are_made else are_begun
        for wish in () if is_ones else wishes:
            wish.error = _another(error)
    else:
        for wish, result in zip(wishes, results, strict=True):
            wish.result.append(result)
    finally:
        for wish in wishes[1:]:
            wish.called.release()


def _another(error: Exception) -> Exception:
    """Return the same error again: what a thread writes into one is its own."""
    import copy  # noqa: PLC0415 - seldom needed, and imports weakref

    again = copy.copy(error)
    again.__cause__ = error
    return again
