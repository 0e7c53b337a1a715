"""
The watch: wait for whatever comes first, and see to it.

::

    a supervisor died ------.
    a journal was let go of -+--> look at that saga --> recover it, if it is due
    a deadline passed ------'
    a registry was replaced --> the next sweep comes soon
    the slow timer -----------> sweep: whatever woke nobody
    an hour has passed -------> collect what retention keeps no longer

Everything that may take its time is a chore in a thread of its own, so that the
watch itself is never late. An event says only where to look; what is there is
read anew each time. Whatever a reaction has not settled is left to the sweeps,
so that nothing, however often it fails, keeps us busy.
"""

from __future__ import annotations

import functools
import os
import time
from typing import TYPE_CHECKING, Any

import attrs

from orchestrator_core import __version__
from orchestrator_core.exceptions import OrchestratorError, SagaNotFound
from orchestrator_core.model.layout import Layout
from orchestrator_core.operations.daemon import heartbeat, log_events
from orchestrator_core.operations.daemon.file_events import Changes
from orchestrator_core.operations.daemon.heartbeat import Heartbeat, LastSweep
from orchestrator_core.operations.daemon.jobs import Chores
from orchestrator_core.operations.daemon.watch_list import Roster, Seen
from orchestrator_core.saga.store import SUFFIX
from orchestrator_core.system.clock import timestamp
from orchestrator_core.system.processes import identity

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator_core.operations.daemon.jobs import Chore
    from orchestrator_core.operations.daemon.notify import ServiceManager
    from orchestrator_core.orchestrator import Orchestrator

_AT_ONCE = 8  #: Chores; each mostly waits, for processes to leave or for a disk.
_BEAT_S = 30.0  #: The longest time between two heartbeats.
_DEAF_S = 1.0  #: After an error of our own that might come again at once.
_AGAIN_S = 0.05  #: The kernel tells of a close a moment before it lets go of the lock.
_SLACK_S = 2.0  #: An agent's own supervisor keeps its deadline; this is how late it may be.
_SOON_S = 2.0  #: The least time between two sweeps that events have asked for …
_IDLE_SHARE = 20  #: … and what they may take of the time: one part in so many.
_BACKOFF = 16  #: So many intervals at the most between sweeps that fail.
_GRACE_S = 0.7  #: What chores under way have when we are told to end.
_TIDY_EVERY_S = 3600.0  #: Between two collections of what is not kept any longer.
_TIDY_FIRST_S = 60.0  #: The first: not while there may be much else to do.
_SWEEP, _TIDY = "sweep", "gc"
_UNTIL_IT_ENDS = float("inf")


@attrs.define(kw_only=True)
class Tally:
    """What has happened since the start, for the heartbeat."""

    reactions: int = 0
    sweeps: int = 0
    errors: int = 0
    errors_in_a_row: int = 0
    last_error: str | None = None
    last_sweep: LastSweep | None = None
    hung: dict[str, float] = attrs.field(factory=dict)


class Watch:
    """One sweeper's work, from its start to its end, in one thread."""

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
        self._recovery = orchestrator.recover
        self._layout = Layout(orchestrator.root)
        self._interval_s = interval_s
        self._beat_s = min(interval_s, _BEAT_S, (manager.watchdog_s or _BEAT_S * 2) / 2)
        self._manager = manager
        self._on_sweep = on_sweep
        self._sweep = functools.partial(
            orchestrator.sweep, reap=True, silent_after_s=silent_after_s
        )
        self._tidy = orchestrator.gc
        self._roster = Roster(self._layout.sagas)
        self._chores = Chores(at_once=_AT_ONCE, hang_s=hang_s)
        self._changes: Changes | None = None
        self._was_blind = False
        self._left: set[str] = set()  #: Sagas that are for the next sweep.
        self._again: dict[str, float] = {}  #: When to look at a saga once more.
        self._sweep_at = time.monotonic()
        self._beat_at = self._sweep_at
        self._tidy_at = self._sweep_at + _TIDY_FIRST_S
        self._pause_until = self._sweep_at  #: No event brings a sweep before this.
        self._deaf_until = self._sweep_at  #: After a failure of ours, no event is heard.
        self._is_wanted = False  #: Something has changed while a sweep was under way.
        self._is_stopped = False
        who = identity.identify(os.getpid())
        assert who is not None  # noqa: S101 - it is us
        self._who = who
        self._started_at = timestamp()
        self._tally = Tally()

    # --- from beginning to end ----------------------------------------------------------------

    def keep(self, stop: int, *, ready: Callable[[], object]) -> None:
        """Watch until *stop* is readable; call *ready* once every living agent is watched."""
        with self._chores:
            try:
                self._open_eyes()
                self._safely(self._look_around)
                self._beat()
                self._manager.notify("READY=1")
                log_events.started(len(self._roster))
                ready()
                while stop not in (readable := self._wait(stop)):
                    self._safely(functools.partial(self._go_on, readable))
            finally:
                self._end()

    def _wait(self, stop: int) -> set[int]:
        self._safely(self._mind_the_time)
        now = time.monotonic()
        fds = [stop]
        if now >= self._deaf_until:
            fds += [self._chores.fd, *self._roster.fds]
            fds += [] if self._changes is None else [self._changes.fd]
        return set(identity.wait_readable(fds, max(self._next_time(), self._deaf_until)))

    def _next_time(self) -> float:
        times = [self._sweep_at, self._beat_at, self._tidy_at, *self._again.values()]
        deadline, hang = self._roster.next_deadline(), self._chores.next_hang()
        times += [] if deadline is None else [deadline + _SLACK_S]
        times += [] if hang is None else [hang]
        return min(times)

    def _go_on(self, readable: set[int]) -> None:
        """See to what has happened: what was done first, so that it is not done twice."""
        for chore in self._chores.take():
            self._safely(functools.partial(self._put_down, chore))
        for saga_id in filter(None, map(self._roster.died, readable)):
            self._look(saga_id)
        if self._changes is not None and self._changes.fd in readable:
            self._hear(self._changes)

    def _end(self) -> None:
        self._manager.notify("STOPPING=1")
        until = time.monotonic() + _GRACE_S
        while self._chores.names and time.monotonic() < until:
            identity.wait_readable([self._chores.fd], until)
            for chore in self._chores.take(begin_more=False):
                if chore.name == _SWEEP:
                    self._safely(functools.partial(self._count_sweep, chore))
        left = self._chores.names
        self._roster.close()
        self._close_eyes()
        self._is_stopped = True
        self._beat()
        log_events.stopped(left)

    def _safely(self, do: Callable[[], object]) -> None:
        """Survive what goes wrong in the watch itself, and not in a hurry: the sweeps go on."""
        try:
            do()
        except Exception as error:  # noqa: BLE001 - a net must hold, whatever falls
            self._fail("watch", error)
            self._deaf_until = time.monotonic() + _DEAF_S

    # --- events -------------------------------------------------------------------------------

    def _open_eyes(self) -> None:
        directories = (self._layout.sagas, self._layout.global_registry.parent)
        try:
            self._changes = Changes(*directories)
        except OSError as error:
            if not self._was_blind:
                log_events.has_no_file_events(error)
            self._was_blind = True
        else:
            self._was_blind = False

    def _close_eyes(self) -> None:
        if self._changes is not None:
            self._changes.close()
            self._changes = None

    def _hear(self, changes: Changes) -> None:
        named: set[str] = set()
        everywhere = False
        for change in changes.take():
            if change.is_last:
                self._close_eyes()
                self._sweep_soon()  # It opens them again.
            elif change.directory == self._layout.sagas:
                is_journal = change.name is not None and _is_journal(change.name)
                named |= {str(change.name).removesuffix(SUFFIX)} if is_journal else set()
                # A journal that its deployer let go of was opened under another name.
                everywhere = everywhere or not is_journal
            elif change.name in (None, self._layout.global_registry.name):
                self._sweep_soon()
        for saga_id in sorted(named):
            self._look(saga_id)
        if everywhere:
            self._look_around()

    def _look_around(self) -> None:
        for saga_id in self._roster.unwatched():
            self._look(saga_id)

    def _look(self, saga_id: str, *, is_again: bool = False) -> None:
        if saga_id in self._left:
            return
        try:
            seen = self._roster.look(saga_id)
        except (OrchestratorError, OSError) as error:
            self._fail(saga_id, error)
            seen = Seen.LEFT
        if seen is Seen.DUE:
            self._recover(saga_id)
        elif seen is Seen.OWNED and not is_again:
            self._again[saga_id] = time.monotonic() + _AGAIN_S
        elif seen is Seen.LEFT:
            self._left.add(saga_id)

    # --- times --------------------------------------------------------------------------------

    def _mind_the_time(self) -> None:
        now = time.monotonic()
        for saga_id in [each for each, at in self._again.items() if at <= now]:
            del self._again[saga_id]
            self._look(saga_id, is_again=True)
        for saga_id in self._roster.overdue(now - _SLACK_S):
            self._recover(saga_id)
        if now >= self._sweep_at:
            self._sweep_at = _UNTIL_IT_ENDS
            self._chores.give(_SWEEP, self._sweep)
        if now >= self._tidy_at:
            self._tidy_at = now + _TIDY_EVERY_S
            self._chores.give(_TIDY, self._tidy)
        if now >= self._beat_at or self._chores.hung().keys() != self._tally.hung.keys():
            self._beat()

    def _sweep_soon(self) -> None:
        if self._sweep_at == _UNTIL_IT_ENDS:
            self._is_wanted = True
        elif not self._tally.errors_in_a_row:
            self._sweep_at = min(self._sweep_at, max(time.monotonic(), self._pause_until))

    # --- chores -------------------------------------------------------------------------------

    def _recover(self, saga_id: str) -> None:
        recover = functools.partial(self._recovery, saga_id)
        self._tally.reactions += self._chores.give(saga_id, recover)

    def _put_down(self, chore: Chore) -> None:
        if chore.name == _SWEEP:
            self._put_down_sweep(chore)
        elif chore.name == _TIDY:
            if chore.error is not None:
                self._fail(_TIDY, chore.error)
        else:
            self._put_down_reaction(chore)

    def _put_down_reaction(self, chore: Chore) -> None:
        report: Any = chore.result
        if chore.error is not None and not isinstance(chore.error, SagaNotFound):
            self._fail(chore.name, chore.error)
        elif report is not None and report.failed:
            self._fail(chore.name, "; ".join(report.failed.values()))
        else:
            unwound = bool(report and report.unwound)
            log_events.reacted(chore.name, unwound=unwound, duration_ms=chore.duration_ms)
        self._again.pop(chore.name, None)
        if self._roster.look(chore.name) is Seen.DUE:
            self._left.add(chore.name)  # It could not be settled now.

    def _put_down_sweep(self, chore: Chore) -> None:
        self._sweep_at = time.monotonic() + self._interval_s  # Whatever else goes wrong here.
        self._count_sweep(chore)
        now = time.monotonic()
        backoff = min(2 ** max(self._tally.errors_in_a_row - 1, 0), _BACKOFF)
        self._sweep_at = now + self._interval_s * backoff
        self._pause_until = now + max(_SOON_S, (chore.ended - chore.began) * _IDLE_SHARE)
        self._left.clear()
        if self._is_wanted:
            self._is_wanted = False
            self._sweep_soon()
        self._beat()
        if self._changes is None:
            self._open_eyes()
        self._look_around()

    def _count_sweep(self, chore: Chore) -> None:
        tally = self._tally
        tally.sweeps += 1
        tally.errors_in_a_row = 0 if chore.error is None else tally.errors_in_a_row + 1
        tally.last_sweep = self._outcome(chore)

    def _outcome(self, chore: Chore) -> LastSweep:
        if chore.error is not None:
            self._fail(_SWEEP, chore.error)
            return LastSweep(
                at=timestamp(), duration_ms=chore.duration_ms, error=self._tally.last_error
            )
        report: Any = chore.result
        self._tell(report)
        return heartbeat.swept(report, at=timestamp())

    def _tell(self, report: Any) -> None:  # noqa: ANN401 - a SweepReport
        if self._on_sweep is None:
            return
        try:
            self._on_sweep(report)
        except Exception as error:  # noqa: BLE001 - not our code, and no reason to stop
            self._fail("on_sweep", error)

    def _fail(self, what: str, error: BaseException | str) -> None:
        told = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
        self._tally.errors += 1
        self._tally.last_error = f"{what}: {told}"
        log_events.failed(what, told)

    # --- the heart ----------------------------------------------------------------------------

    def _beat(self) -> None:
        now, hung = time.monotonic(), self._chores.hung()
        for what in hung.keys() - self._tally.hung.keys():
            log_events.hung(what, hung[what])
        self._tally.hung = hung
        self._beat_at = now + self._beat_s
        try:
            heartbeat.write(self._layout.root, self._heartbeat(now))
        except OrchestratorError as error:
            self._fail("heartbeat", error)
        if not hung:  # Else we are to be started anew: a hung thread cannot be ended.
            self._manager.notify("WATCHDOG=1", f"STATUS=watching {len(self._roster)} agents")

    def _heartbeat(self, now: float) -> Heartbeat:
        return Heartbeat(
            **attrs.asdict(self._who),
            version=__version__,
            started_at=self._started_at,
            beat_at=timestamp(),
            beat_monotonic=now,
            beats_every_s=self._beat_s,
            interval_s=self._interval_s,
            is_stopped=self._is_stopped,
            has_file_events=not self._was_blind,
            watched=len(self._roster),
            **attrs.asdict(self._tally, recurse=False),
        )


def _is_journal(name: str) -> bool:
    return name.endswith(SUFFIX) and not name.startswith(".")
