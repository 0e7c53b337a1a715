"""
A work queue: calls in worker threads, a few in parallel, each with a hang limit.

- A thread cannot be ended from outside. A hung job is therefore reported, and the restart of
  the process ends it.
- The threads are daemon threads: the process exits without them, and recovery finishes what
  an interrupted job has left.
"""

from __future__ import annotations

import collections
import functools
import math
import threading
import time
from typing import TYPE_CHECKING

import attrs

from orchestrator_core.system.wakeup import Wakeup

if TYPE_CHECKING:
    from collections.abc import Callable


@attrs.define(eq=False)
class Job:
    """One call: queued, running, or done."""

    name: str
    call: Callable[[], object] = attrs.field(repr=False)
    began: float = 0.0  #: By the monotonic clock; 0 while the job is queued.
    ended: float = 0.0
    result: object = attrs.field(default=None, repr=False)
    error: BaseException | None = None

    @property
    def duration_ms(self) -> float:
        """The running time of the job."""
        return round((self.ended - self.began) * 1000, 3)


class JobPool:
    """
    Jobs, started in the order of submission, at most *limit* in parallel.

    One thread submits and collects; only the calls run in other threads.
    """

    def __init__(self, *, limit: int, hang_s: float) -> None:
        self._limit = limit
        self._hang_s = hang_s
        self._queued: dict[str, Job] = {}
        self._running: dict[str, Job] = {}
        self._done: collections.deque[Job] = collections.deque()
        self._wakeup = Wakeup()
        self.fd = self._wakeup.fd

    def submit(self, name: str, call: Callable[..., object], *args: object, **how: object) -> bool:
        """Queue a call; return False if a job of that name is queued or running."""
        if name in self._queued or name in self._running:
            return False
        self._queued[name] = Job(name, functools.partial(call, *args, **how))
        self._start()
        return True

    def collect(self, *, start_more: bool = True) -> list[Job]:
        """Return the jobs that are done since the last call. *fd* is readable if there are any."""
        self._wakeup.clear()
        done = []
        while self._done:
            done.append(self._done.popleft())
            del self._running[done[-1].name]
        if start_more:
            self._start()
        return done

    @property
    def names(self) -> list[str]:
        """The running jobs, the longest first."""
        return list(self._running)

    def hung(self) -> dict[str, float]:
        """Return the jobs over the hang limit, and their running time in seconds."""
        now = time.monotonic()
        return {
            job.name: round(now - job.began, 1)
            for job in self._running.values()
            if not job.ended and now - job.began >= self._hang_s
        }

    def next_hang(self) -> float:
        """Return when the next running job reaches the hang limit; infinity if there is none."""
        times = [job.began + self._hang_s for job in self._running.values()]
        return min((at for at in times if at > time.monotonic()), default=math.inf)

    def _start(self) -> None:
        while self._queued and len(self._running) < self._limit:
            name = next(iter(self._queued))
            job = self._running[name] = self._queued.pop(name)
            job.began = time.monotonic()
            thread = threading.Thread(
                target=self._run, args=[job], name=f"sweeper: {name}", daemon=True
            )
            try:
                thread.start()
            except RuntimeError as error:  # The system has no more threads.
                job.error = error
                self._finish(job)

    def _run(self, job: Job) -> None:
        try:
            job.result = job.call()
        except BaseException as error:  # noqa: BLE001 - the collector of the job handles it
            job.error = error
        self._finish(job)

    def _finish(self, job: Job) -> None:
        job.ended = time.monotonic()
        self._done.append(job)
        self._wakeup.set()
