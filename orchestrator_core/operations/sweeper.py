"""
The resident sweeper: somebody who is always awake, one for each root.

It ends what has died within moments, keeps deadlines that nobody else keeps,
and sweeps from time to time for all that no event tells. It ends nothing in a
way of its own: what it does is :meth:`Orchestrator.recover` and
:meth:`Orchestrator.sweep`, when it is time for them.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import weakref
from typing import TYPE_CHECKING, NoReturn, Self

from orchestrator_core.exceptions import InvalidInput, LockTimeout
from orchestrator_core.model import settings
from orchestrator_core.model.layout import Layout
from orchestrator_core.operations.daemon import heartbeat
from orchestrator_core.operations.daemon.event_loop import Watch
from orchestrator_core.operations.daemon.health import Health, health
from orchestrator_core.operations.daemon.notify import ServiceManager
from orchestrator_core.system import durable, locks
from orchestrator_core.system.deprecation import warn_renamed
from orchestrator_core.system.os_errors import storage_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import TracebackType

    from orchestrator_core.orchestrator import Orchestrator
    from orchestrator_core.reconcile.sweep.findings import SweepReport

__all__ = ["Health", "Sweeper", "health"]

_GLANCE_S = 0.2  #: Far longer than a supervisor takes to look.
_END_S = 2.0  #: It ends within one second; a busy machine has another.


class Sweeper:
    """
    Looks after one root, until it is told to stop; once.

    In a thread of a server that has other things to do::

        with Sweeper(orchestrator):
            serve()

    or, with :meth:`run`, in the thread that calls it. There is one on a root at
    a time, in whatever process. *on_sweep* is called with each report.
    """

    def __init__(
        self,
        orchestrator: Orchestrator,
        *,
        interval_s: float | None = None,
        hang_s: float | None = None,
        silent_after_s: float | None = None,
        on_sweep: Callable[[SweepReport], object] | None = None,
        manager: ServiceManager | None = None,
    ) -> None:
        """
        Make one, and touch nothing.

        *interval_s*, *hang_s* and *silent_after_s* are, unless given, those of the
        root's ``orchestrator.toml``. *manager* is told when we are ready, and that we live.

        Raises:
            InvalidInput: An interval that is none, or an ``orchestrator.toml`` that is wrong.
        """
        given = settings.read(orchestrator.root).sweep
        self._orchestrator = orchestrator
        self._interval_s = given.interval_s if interval_s is None else interval_s
        self._hang_s = given.hang_s if hang_s is None else hang_s
        for name, value in (("interval_s", self._interval_s), ("hang_s", self._hang_s)):
            if not 0 < value < threading.TIMEOUT_MAX:
                raise InvalidInput(f"{name}: {value} s is no time to wait")
        self._silent_after_s = silent_after_s
        self._on_sweep = on_sweep
        self._manager = manager or ServiceManager()
        self._thread: threading.Thread | None = None
        # It lives as long as we do: who rings late must not write into another file.
        self._stop, self._wakeup_fd = os.pipe()
        for fd in (self._stop, self._wakeup_fd):
            os.set_blocking(fd, False)
        weakref.finalize(self, _close, self._stop, self._wakeup_fd)

    # --- from beginning to end ----------------------------------------------------------------

    def run(self) -> None:
        """
        Look after the root in this thread, until :meth:`request_stop`.

        Raises:
            LockTimeout: Another sweeper runs on this root; the message says which.
            StorageError: The root cannot be used.
        """
        with self._the_only_one():
            self._watch(lambda: None)

    def start(self) -> Self:
        """
        Look after the root in a thread, from now on.

        When this returns, every agent that lives is watched.

        Raises:
            LockTimeout: Another sweeper runs on this root; the message says which.
            StorageError: The root cannot be used.
        """
        ready = threading.Event()
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._the_only_one())

            def watch(root_is_ours: contextlib.ExitStack) -> None:
                with root_is_ours:
                    try:
                        self._watch(ready.set)
                    finally:
                        ready.set()

            self._thread = threading.Thread(
                target=watch, args=[stack.pop_all()], name="sweeper", daemon=True
            )
        self._thread.start()
        ready.wait()
        return self

    def request_stop(self) -> None:
        """
        Request that the sweeper stops, and return at once. The sweeper stops within one second.

        For a signal handler, use :meth:`stop_on_signals`.
        """
        with contextlib.suppress(BlockingIOError):  # The pipe is full: a request is pending.
            os.write(self._wakeup_fd, b".")

    @contextlib.contextmanager
    def stop_on_signals(self, *signals: int) -> Iterator[None]:
        """
        Stop :meth:`run` on *signals*, in a program that does nothing else in this block.

        The interpreter's own handler writes to the wakeup descriptor at once. A Python
        handler that calls :meth:`request_stop` would come too late for a signal between the
        interpreter's last check and the wait. Any other signal that this process handles in
        Python stops the sweeper, too.

        Raises:
            ValueError: The caller is not the main thread.
        """
        before = signal.set_wakeup_fd(self._wakeup_fd, warn_on_full_buffer=False)
        try:
            for number in signals:
                signal.signal(number, lambda *_: None)
            yield
        finally:
            signal.set_wakeup_fd(before)

    def ask_to_stop(self) -> None:
        """Call :meth:`request_stop`, by its old name."""
        warn_renamed("Sweeper.ask_to_stop", "Sweeper.request_stop")
        self.request_stop()

    def ended_by(self, *signals: int) -> contextlib.AbstractContextManager[None]:
        """Call :meth:`stop_on_signals`, by its old name."""
        warn_renamed("Sweeper.ended_by", "Sweeper.stop_on_signals")
        return self.stop_on_signals(*signals)

    def stop(self) -> bool:
        """
        End it, and return when it has ended; tell whether it has.

        An unwinding that is under way has a moment to come to its end. If that is
        not enough, its thread goes on by itself, or recovery finishes it.
        """
        self.request_stop()
        if self._thread is None:
            return True
        self._thread.join(_END_S)
        return not self._thread.is_alive()

    @property
    def is_running(self) -> bool:
        """Whether it looks after the root in a thread of its own."""
        return self._thread is not None and self._thread.is_alive()

    def health(self) -> Health:
        """Tell how it is, as anybody could tell from outside."""
        return health(self._orchestrator.root)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    # --- inside --------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _the_only_one(self) -> Iterator[None]:
        """Hold the root for as long as this one runs."""
        root = self._orchestrator.root
        lock = Layout(root).sweeper_lock
        fd = durable.open_private(lock, os.O_RDWR | os.O_CREAT)
        try:
            with storage_errors("lock", lock):
                # A supervisor that looks whether we are awake holds it for an instant.
                if not locks.lock_within(fd, _GLANCE_S):
                    _tell_who_runs(root)
            durable.remove_stale_temps(heartbeat.file_of(root))
            yield
            locks.unlock(fd)  # Also for processes that were forked meanwhile.
        finally:
            os.close(fd)

    def _watch(self, ready: Callable[[], object]) -> None:
        watch = Watch(
            self._orchestrator,
            interval_s=self._interval_s,
            hang_s=self._hang_s,
            silent_after_s=self._silent_after_s,
            manager=self._manager,
            on_sweep=self._on_sweep,
        )
        watch.keep(self._stop, ready=ready)


def _tell_who_runs(root: Path) -> NoReturn:
    beat = heartbeat.read(root)
    who = "" if beat is None or beat.is_stopped else f": pid {beat.pid}, since {beat.started_at}"
    raise LockTimeout(
        f"a sweeper runs on {root} already{who}",
        hint="one is enough; orchestrator-core health tells how it is",
    )


def _close(*fds: int) -> None:
    for fd in fds:
        os.close(fd)
