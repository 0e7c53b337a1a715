"""
The resident sweeper: a daemon or a thread that maintains one root. One runs on each root.

- When an agent dies, the sweeper unwinds its saga at once.
- The sweeper enforces deadlines that no supervisor enforces.
- Regular sweeps find what has caused no event.

The sweeper calls :meth:`Orchestrator.recover`, :meth:`Orchestrator.sweep` and
:meth:`Orchestrator.gc`, and has no other way to end anything.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import threading
from typing import TYPE_CHECKING, Self

from orchestrator_core.exceptions import InvalidInput, LockTimeout, NotFound
from orchestrator_core.model import settings
from orchestrator_core.model.layout import Layout
from orchestrator_core.operations.daemon import heartbeat
from orchestrator_core.operations.daemon.event_loop import EventLoop
from orchestrator_core.operations.daemon.heartbeat import Health, health
from orchestrator_core.operations.daemon.service import ServiceManager
from orchestrator_core.system import durable, locks
from orchestrator_core.system.deprecation import renamed_attributes
from orchestrator_core.system.os_errors import storage_errors
from orchestrator_core.system.wakeup import Wakeup

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from orchestrator_core.orchestrator import Orchestrator
    from orchestrator_core.reconcile.sweep.findings import SweepReport

__all__ = ["Health", "Sweeper", "health"]

_LOCK_RETRY_S = 0.2  #: A supervisor that checks for a sweeper holds the lock for far less.
_STOP_TIMEOUT_S = 2.0  #: The sweeper stops within 1 s; the rest is for a busy machine.


@renamed_attributes(ask_to_stop="request_stop", ended_by="stop_on_signals")
class Sweeper:
    """
    Maintains one root until it is stopped. A stopped sweeper cannot be started again.

    In a thread of a server::

        with Sweeper(orchestrator):
            serve()

    or, with :meth:`run`, in the calling thread. At most one sweeper runs on a root, in any
    process. *on_sweep* is called with the report of each sweep.
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
        Create a sweeper, and change nothing.

        The defaults of *interval_s*, *hang_s* and *silent_after_s* are those of the root's
        ``orchestrator.toml``. *manager* is notified when the sweeper is ready, and while it
        is alive.

        Raises:
            InvalidInput: An interval is not positive, or ``orchestrator.toml`` is invalid.
        """
        given = settings.read(orchestrator.root).sweep
        self._orchestrator = orchestrator
        interval_s = given.interval_s if interval_s is None else interval_s
        hang_s = given.hang_s if hang_s is None else hang_s
        for name, value in (("interval_s", interval_s), ("hang_s", hang_s)):
            if not 0 < value < threading.TIMEOUT_MAX:
                raise InvalidInput(
                    f"{name} = {value} is no interval", hint="give seconds, more than 0"
                )
        self._new_loop = functools.partial(
            EventLoop,
            orchestrator,
            interval_s=interval_s,
            hang_s=hang_s,
            silent_after_s=silent_after_s,
            manager=manager or ServiceManager(),
            on_sweep=on_sweep,
        )
        self._thread: threading.Thread | None = None
        self._stop_request = Wakeup()

    # --- start and stop ------------------------------------------------------------------------

    def run(self) -> None:
        """
        Maintain the root in this thread, until :meth:`request_stop`.

        Raises:
            NotFound: The root was removed meanwhile; the sweeper has stopped.
            LockTimeout: Another sweeper runs on this root; the message names its process.
            StorageError: The root cannot be used.
        """
        with self._exclusive():
            loop = self._new_loop()
            loop.run(self._stop_request.fd)
        if loop.root_is_removed:
            root = self._orchestrator.root
            raise NotFound(f"the root {root} was removed, and its sweeper has stopped")

    def start(self) -> Self:
        """
        Maintain the root in a thread. When this returns, every live agent is watched.

        Raises:
            LockTimeout: Another sweeper runs on this root; the message names its process.
            StorageError: The root cannot be used.
        """
        ready = threading.Event()
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._exclusive())
            self._thread = threading.Thread(
                target=self._run_in_thread,
                args=[stack.pop_all(), ready],
                name="sweeper",
                daemon=True,
            )
        self._thread.start()
        ready.wait()
        return self

    def request_stop(self) -> None:
        """
        Request that the sweeper stops, and return at once. The sweeper stops within one second.

        For a signal handler, use :meth:`stop_on_signals`.
        """
        self._stop_request.set()

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
        before = signal.set_wakeup_fd(self._stop_request.write_fd, warn_on_full_buffer=False)
        try:
            for number in signals:
                signal.signal(number, lambda *_: None)
            yield
        finally:
            signal.set_wakeup_fd(before)

    def stop(self) -> bool:
        """
        Stop the sweeper, and return whether it has stopped within 2 seconds.

        Running jobs have 0.7 seconds to finish. After that, a job's thread goes on by
        itself. If the process exits first, recovery finishes the job.
        """
        self.request_stop()
        if self._thread is None:
            return True
        self._thread.join(_STOP_TIMEOUT_S)
        return not self._thread.is_alive()

    @property
    def is_running(self) -> bool:
        """Whether the sweeper runs in a thread of this object."""
        return self._thread is not None and self._thread.is_alive()

    def health(self) -> Health:
        """Return the health of the root's sweeper, as any process can read it."""
        return health(self._orchestrator.root)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    # --- private -------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Hold the lock that only one sweeper of the root can hold."""
        root = self._orchestrator.root
        lock = Layout(root).sweeper_lock
        fd = durable.open_private(lock, os.O_RDWR | os.O_CREAT)
        try:
            with storage_errors("lock", lock):
                # A supervisor that checks for a sweeper holds the lock for an instant.
                if not locks.lock_within(fd, _LOCK_RETRY_S):
                    beat = heartbeat.read(root)
                    owner = ""
                    if beat is not None and not beat.is_stopped:
                        owner = f": pid {beat.pid}, since {beat.started_at}"
                    raise LockTimeout(
                        f"a sweeper already runs on {root}{owner}",
                        hint="one is enough; orchestrator-core health reports its state",
                    )
            durable.remove_stale_temps(heartbeat.file_of(root))
            yield
            locks.unlock(fd)  # Also for forked processes with the descriptor.
        finally:
            os.close(fd)

    def _run_in_thread(self, exclusive: contextlib.ExitStack, ready: threading.Event) -> None:
        with exclusive:
            try:
                self._new_loop().run(self._stop_request.fd, ready=ready.set)
            finally:
                ready.set()
