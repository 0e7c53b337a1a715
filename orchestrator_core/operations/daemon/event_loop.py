"""
The event loop of the resident sweeper: wait for the first event, and react.

::

    a supervisor exited -----.
    a journal was released --+--> check that saga --> recover it, if its agent is dead
    a deadline passed ------'
    a registry was replaced --> the next sweep is due soon
    the sweep timer ----------> sweep: finds what has caused no event
    the gc timer (one hour) --> remove what retention no longer keeps

- Slow work is a job in a worker thread, so the loop itself is never late.
- An event has only the place of a change. The loop reads the state again each time.
- A saga that a reaction has not settled is deferred to the next sweep. Repeated failures
  therefore do not keep the loop busy.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import attrs

from orchestrator_core import __version__
from orchestrator_core.exceptions import OrchestratorError, SagaNotFound
from orchestrator_core.model.layout import Layout
from orchestrator_core.operations.daemon import heartbeat, log_events
from orchestrator_core.operations.daemon.file_events import DirectoryEvents
from orchestrator_core.operations.daemon.heartbeat import Heartbeat, LastSweep
from orchestrator_core.operations.daemon.jobs import JobPool
from orchestrator_core.operations.daemon.watch_list import SagaCheck, WatchList, saga_of_journal
from orchestrator_core.system.clock import timestamp
from orchestrator_core.system.event_reader import wait_readable
from orchestrator_core.system.processes import identity

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator_core.operations.daemon.jobs import Job
    from orchestrator_core.operations.daemon.service import ServiceManager
    from orchestrator_core.orchestrator import Orchestrator

_MAX_JOBS = 8  #: In parallel. A job mostly waits for a process or a disk.
_MAX_HEARTBEAT_S = 30.0  #: The longest time between two heartbeats.
_ERROR_PAUSE_S = 1.0  #: Without events, after an error that might recur at once.
_RECHECK_S = 0.05  #: The kernel reports a close shortly before it releases the lock.
_DEADLINE_SLACK_S = 2.0  #: An agent's supervisor enforces the deadline up to this much later.
_MIN_PAUSE_S = 2.0  #: The least time between two sweeps that events have caused …
_PAUSE_FACTOR = 20  #: … and the least ratio of that time to the duration of the last sweep.
_MAX_BACKOFF = 16  #: Intervals between sweeps that fail.
_STOP_GRACE_S = 0.7  #: For the running jobs, after the request to stop.
_GC_EVERY_S = 3600.0
_GC_FIRST_S = 60.0  #: The first collection waits for the busy start.
_SWEEP, _GC = "sweep", "gc"
_WHEN_JOB_ENDS = float("inf")


class EventLoop:
    """The work of one sweeper, from its start to its end, in one thread."""

    def __init__(
        self,
        orchestrator: Orchestrator,
        *,
        interval_s: float,
        hang_s: float,
        silent_after_s: float | None,
        manager: ServiceManager,
        on_sweep: Callable[[Any], object] | None,
    ) -> None:
        self._orchestrator = orchestrator
        self._layout = Layout(orchestrator.root)
        self._silent_after_s = silent_after_s
        self._manager = manager
        self._on_sweep = on_sweep
        self._watch_list = WatchList(self._layout.sagas)
        self._jobs = JobPool(limit=_MAX_JOBS, hang_s=hang_s)
        self._file_events: DirectoryEvents | None = None
        self._deferred: set[str] = set()  #: Sagas for the next sweep.
        self._recheck_at: dict[str, float] = {}  #: When to check a saga again.
        now = time.monotonic()
        self._sweep_at = now
        self._heartbeat_at = now
        self._gc_at = now + _GC_FIRST_S
        self._no_sweep_before = now  #: For sweeps that events have caused.
        self._ignore_events_until = now
        self.root_is_removed = False  #: Why the loop has ended, if so.
        # A file that a job writes during the removal can make the directory again.
        has_file = self._layout.root_file.exists()
        self._witness = self._layout.root_file if has_file else self._layout.root
        self._sweep_requested = False  #: Something has changed during a sweep.
        process = identity.identify(os.getpid())
        assert process is not None  # noqa: S101 - this process is alive
        longest_s = manager.watchdog_s / 2 if manager.watchdog_s else _MAX_HEARTBEAT_S
        self._state = Heartbeat(
            **attrs.asdict(process),
            version=__version__,
            started_at=timestamp(),
            beat_at=timestamp(),
            beat_monotonic=now,
            beats_every_s=min(interval_s, longest_s, _MAX_HEARTBEAT_S),
            interval_s=interval_s,
        )

    # --- from start to stop -------------------------------------------------------------------

    def run(self, stop: int, *, ready: Callable[[], object] = lambda: None) -> None:
        """
        Run until *stop* is readable, or the root was removed.

        *ready* is called once every live agent is watched.
        """
        try:
            self._start_file_events()
            self._log_errors(self._check_all)
            self._write_heartbeat()
            self._manager.notify("READY=1")
            log_events.started(len(self._watch_list))
            ready()
            while stop not in (readable := self._wait(stop)):
                self._log_errors(self._on_readable, readable)
                if not os.path.lexists(self._witness):
                    self._record_error("root", "it was removed")
                    self.root_is_removed = True
                    break
        finally:
            self._shut_down()

    def _wait(self, stop: int) -> set[int]:
        self._log_errors(self._run_timers)
        fds = [stop]
        if time.monotonic() >= self._ignore_events_until:
            fds += [self._jobs.fd, *self._watch_list.fds]
            fds += [] if self._file_events is None else [self._file_events.fd]
        until = max(self._next_timer(), self._ignore_events_until)
        return set(wait_readable(fds, until))

    def _on_readable(self, readable: set[int]) -> None:
        # Finished jobs come first, so that no saga is recovered twice.
        for job in self._jobs.collect():
            self._log_errors(self._on_job_done, job)
        for saga_id in self._watch_list.exited_agents(readable):
            self._check_saga(saga_id)
        if self._file_events is not None and self._file_events.fd in readable:
            self._on_file_event(self._file_events)

    def _shut_down(self) -> None:
        self._manager.notify("STOPPING=1")
        until = time.monotonic() + _STOP_GRACE_S
        while self._jobs.names and time.monotonic() < until:
            wait_readable([self._jobs.fd], until)
            for job in self._jobs.collect(start_more=False):
                if job.name == _SWEEP:
                    self._log_errors(self._count_sweep, job)
        self._watch_list.close()
        self._stop_file_events()
        self._update(is_stopped=True)
        self._write_heartbeat()
        log_events.stopped(self._jobs.names)

    def _log_errors(self, call: Callable[..., object], *args: object) -> None:
        """Call, and survive an error of the loop itself: pause for a second, and go on."""
        try:
            call(*args)
        except Exception as error:  # noqa: BLE001 - the sweeps must go on after any error
            self._record_error("watch", error)
            self._ignore_events_until = time.monotonic() + _ERROR_PAUSE_S

    def _record_error(self, what: str, error: BaseException | str) -> None:
        text = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
        self._update(errors=self._state.errors + 1, last_error=f"{what}: {text}")
        log_events.failed(what, text)

    # --- events -------------------------------------------------------------------------------

    def _start_file_events(self) -> None:
        directories = (self._layout.sagas, self._layout.global_registry.parent)
        try:
            self._file_events = DirectoryEvents(*directories)
        except OSError as error:
            if self._state.has_file_events:
                log_events.has_no_file_events(error)
        self._update(has_file_events=self._file_events is not None)

    def _stop_file_events(self) -> None:
        if self._file_events is not None:
            self._file_events.close()
            self._file_events = None

    def _on_file_event(self, events: DirectoryEvents) -> None:
        changed: set[str] = set()
        check_all = False
        for event in events.read():
            if event.watch_lost:
                self._stop_file_events()
                self._request_sweep()  # The sweep starts them again.
            elif event.directory == self._layout.sagas:
                saga_id = None if event.name is None else saga_of_journal(event.name)
                # A deployer may release a journal that it has opened under another name.
                check_all = check_all or saga_id is None
                changed |= set() if saga_id is None else {saga_id}
            elif event.name in (None, self._layout.global_registry.name):
                self._request_sweep()
        for saga_id in sorted(changed):
            self._check_saga(saga_id)
        if check_all:
            self._check_all()

    def _check_all(self) -> None:
        for saga_id in self._watch_list.unwatched():
            self._check_saga(saga_id)

    def _check_saga(self, saga_id: str, *, is_recheck: bool = False) -> None:
        if saga_id in self._deferred:
            return
        try:
            check = self._watch_list.check(saga_id)
        except (OrchestratorError, OSError) as error:
            self._record_error(saga_id, error)
            check = SagaCheck.DEFERRED
        if check is SagaCheck.NEEDS_RECOVERY:
            self._recover(saga_id)
        elif check is SagaCheck.OWNED and not is_recheck:
            self._recheck_at[saga_id] = time.monotonic() + _RECHECK_S
        elif check is SagaCheck.DEFERRED:
            self._deferred.add(saga_id)

    # --- timers -------------------------------------------------------------------------------

    def _next_timer(self) -> float:
        deadline = self._watch_list.next_deadline() + _DEADLINE_SLACK_S
        times = (self._sweep_at, self._heartbeat_at, self._gc_at, *self._recheck_at.values())
        return min(*times, deadline, self._jobs.next_hang())

    def _run_timers(self) -> None:
        now = time.monotonic()
        for saga_id in [each for each, at in self._recheck_at.items() if at <= now]:
            del self._recheck_at[saga_id]
            self._check_saga(saga_id, is_recheck=True)
        for saga_id in self._watch_list.overdue(now - _DEADLINE_SLACK_S):
            self._recover(saga_id)
        if now >= self._sweep_at:
            self._sweep_at = _WHEN_JOB_ENDS
            self._jobs.submit(
                _SWEEP, self._orchestrator.sweep, reap=True, silent_after_s=self._silent_after_s
            )
        if now >= self._gc_at:
            self._gc_at = now + _GC_EVERY_S
            self._jobs.submit(_GC, self._orchestrator.gc)
        if now >= self._heartbeat_at or self._jobs.hung().keys() != self._state.hung.keys():
            self._write_heartbeat()

    def _request_sweep(self) -> None:
        if self._sweep_at == _WHEN_JOB_ENDS:
            self._sweep_requested = True
        elif not self._state.errors_in_a_row:
            self._sweep_at = min(self._sweep_at, max(time.monotonic(), self._no_sweep_before))

    # --- jobs ---------------------------------------------------------------------------------

    def _recover(self, saga_id: str) -> None:
        is_new = self._jobs.submit(saga_id, self._orchestrator.recover, saga_id)
        self._update(reactions=self._state.reactions + is_new)

    def _on_job_done(self, job: Job) -> None:
        if job.name == _SWEEP:
            self._on_sweep_done(job)
        elif job.name != _GC:
            self._on_reaction_done(job)
        elif job.error is not None:
            self._record_error(_GC, job.error)

    def _on_reaction_done(self, job: Job) -> None:
        report: Any = job.result
        if job.error is not None and not isinstance(job.error, SagaNotFound):
            self._record_error(job.name, job.error)
        elif report is not None and report.failed:
            self._record_error(job.name, "; ".join(report.failed.values()))
        else:
            unwound = bool(report and report.unwound)
            log_events.reacted(job.name, unwound=unwound, duration_ms=job.duration_ms)
        self._recheck_at.pop(job.name, None)
        if self._watch_list.check(job.name) is SagaCheck.NEEDS_RECOVERY:
            self._deferred.add(job.name)

    def _on_sweep_done(self, job: Job) -> None:
        self._sweep_at = time.monotonic() + self._state.interval_s  # Before anything can raise.
        self._count_sweep(job)
        now = time.monotonic()
        backoff = min(2 ** max(self._state.errors_in_a_row - 1, 0), _MAX_BACKOFF)
        self._sweep_at = now + self._state.interval_s * backoff
        pause_s = max(_MIN_PAUSE_S, (job.ended - job.began) * _PAUSE_FACTOR)
        self._no_sweep_before = now + pause_s
        self._deferred.clear()
        if self._sweep_requested:
            self._sweep_requested = False
            self._request_sweep()
        self._write_heartbeat()
        if self._file_events is None:
            self._start_file_events()
        self._check_all()

    def _count_sweep(self, job: Job) -> None:
        report: Any = job.result
        self._update(sweeps=self._state.sweeps + 1)
        if job.error is not None:
            self._record_error(_SWEEP, job.error)
            error = self._state.last_error
            sweep = LastSweep(at=timestamp(), duration_ms=job.duration_ms, error=error)
            self._update(errors_in_a_row=self._state.errors_in_a_row + 1, last_sweep=sweep)
            return
        if self._on_sweep is not None:
            try:
                self._on_sweep(report)
            except Exception as error:  # noqa: BLE001 - an error of foreign code stops nothing
                self._record_error("on_sweep", error)
        self._update(errors_in_a_row=0, last_sweep=heartbeat.summarize(report, at=timestamp()))

    # --- the heartbeat ------------------------------------------------------------------------

    def _write_heartbeat(self) -> None:
        now, hung = time.monotonic(), self._jobs.hung()
        for name in hung.keys() - self._state.hung.keys():
            log_events.hung(name, hung[name])
        self._heartbeat_at = now + self._state.beats_every_s
        watched = len(self._watch_list)
        self._update(hung=hung, watched=watched, beat_at=timestamp(), beat_monotonic=now)
        try:
            heartbeat.write(self._layout.root, self._state)
        except OrchestratorError as error:
            self._record_error("heartbeat", error)
        if not hung:  # Else the watchdog restarts the process: a hung thread cannot be ended.
            self._manager.notify("WATCHDOG=1", f"STATUS=watching {watched} agents")

    def _update(self, **changes: Any) -> None:  # noqa: ANN401 - fields of the heartbeat
        self._state = attrs.evolve(self._state, **changes)
