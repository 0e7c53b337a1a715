"""
Tell somebody when a cleanup has failed.

Two may be told: the command that ``orchestrator.toml`` names, and a callable of
the program that is running. The command is told wherever the end is carried
out, which is mostly in a process that nobody looks at: a supervisor that has
become the unwinder of its own agent.

Telling is nothing that the unwinding waits for. A command is started by a shell
that leaves at once, below a watchdog that ends it in time, in a session of its
own, with an environment of its own: it is not of the agent that ends, it holds
none of our secrets, and nobody who ends the agent once more ends it.
"""

from __future__ import annotations

import atexit
import functools
import logging
import os
import sys
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

import attrs
import msgspec

from orchestrator_core.model.outcome import EndReport
from orchestrator_core.saga.observer import Observer
from orchestrator_core.system import durable, log
from orchestrator_core.system.clock import timestamp

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from orchestrator_core.deployment.context import RootContext
    from orchestrator_core.saga import UnwindReport

    OnFailedCleanup = Callable[["FailedCleanup"], object]

_ENVIRONMENT = ("HOME", "LANG", "LC_ALL", "LOGNAME", "PATH", "USER")
_START_S = 5.0  #: For a shell to start one program and leave.


@attrs.frozen(kw_only=True)
class FailedCleanup:
    """A cleanup that has failed: what is left, and when it is tried again."""

    what: str  #: ``stuck``: some steps could not be undone. ``reaping``: a sweep could not reap.
    subject: str  #: The agent, or what the sweep had found.
    root: str
    at: str
    errors: tuple[str, ...]
    survivors: tuple[str, ...] = ()  #: Processes that are still alive: "pid (name)".
    retry_at: float | None = None  #: Seconds since 1970; None: at the next sweep.
    report: dict[str, Any] | None = None  #: For ``stuck``: the end's whole report.

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-safe values."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return plain


class Alerts(Observer):
    """Tells of cleanups that fail: as an observer of sagas, and when a sweep asks it to."""

    def __init__(
        self, context: RootContext, on_failed_cleanup: OnFailedCleanup | None = None
    ) -> None:
        self._context = context
        self._on_failed_cleanup = on_failed_cleanup

    def saga_stuck(self, saga_id: str, report: UnwindReport) -> None:
        """Some steps could not be undone, for now."""
        end = EndReport.from_unwind(report)
        self._tell(
            FailedCleanup(
                what="stuck",
                subject=saga_id,
                root=str(self._context.layout.root),
                at=timestamp(),
                errors=end.errors,
                survivors=end.survivors,
                retry_at=report.retry_at,
                report=end.to_dict(),
            )
        )

    def reaping_failed(self, subject: str, error: str) -> None:
        """Tell that a sweep could not reap something, and no saga is STUCK for it."""
        self._tell(
            FailedCleanup(
                what="reaping",
                subject=subject,
                root=str(self._context.layout.root),
                at=timestamp(),
                errors=(error,),
            )
        )

    def _tell(self, failed: FailedCleanup) -> None:
        """Tell all who want to know. Never raises, never waits for them."""
        if self._on_failed_cleanup is not None:
            _call(self._on_failed_cleanup, failed)
        try:
            settled = self._context.settings.alerts
            if settled.command:
                start(
                    settled.command,
                    failed.to_dict(),
                    timeout_s=settled.timeout_s,
                    root=failed.root,
                )
        except Exception as error:  # noqa: BLE001 - see the promise
            _log_failure(failed.subject, error)


def _log_failure(subject: str, error: BaseException) -> None:
    """An alert could not be given."""
    log.emit(logging.ERROR, "alert.failed", subject=subject, error=repr(error))


# --- a callable ---------------------------------------------------------------------------------


_calls: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
_FAREWELL_S = 5.0  #: For all calls that are under way when the program ends.


def _call(tell: OnFailedCleanup, failed: FailedCleanup) -> None:
    """Call *tell* in a thread of its own: it may hang, or raise."""

    def call() -> None:
        try:
            tell(failed)
        except BaseException as error:  # noqa: BLE001 - it is not ours
            _log_failure(failed.subject, error)

    thread = threading.Thread(target=call, name="orchestrator-core-alert", daemon=True)
    try:
        thread.start()
    except RuntimeError as error:  # no more threads
        _log_failure(failed.subject, error)
        return
    _calls.add(thread)
    _see_them_end()


@functools.cache
def _see_them_end() -> None:
    atexit.register(_let_finish)


def _let_finish() -> None:
    deadline = time.monotonic() + _FAREWELL_S
    for thread in list(_calls):
        thread.join(max(0.0, deadline - time.monotonic()))


# --- a command ----------------------------------------------------------------------------------

#: Leaves at once; what it has started is nobody's child any more. Descriptor 3, because a
#: shell gives what it puts into the background /dev/null for its standard input.
_DETACH = 'exec 3<&0; "$@" <&3 3<&- &'

#: Ends the command, and all of its group, when its time (argument 1) is over. Whoever
#: started us may have been deaf to signals; the command is not.
_WATCHDOG = """
import os, signal, subprocess, sys
signal.pthread_sigmask(signal.SIG_SETMASK, [])
for deaf in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
    signal.signal(deaf, signal.SIG_DFL)
child = subprocess.Popen(sys.argv[2:], start_new_session=True)
try:
    child.wait(float(sys.argv[1]))
except subprocess.TimeoutExpired:
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
"""


def start(command: Sequence[str], report: object, *, timeout_s: float, root: str) -> None:
    """
    Start *command* with *report* as JSON on its standard input, and do not wait for it.

    It is ended after *timeout_s*. Its working directory is ``/``, what it prints is dropped.

    Raises:
        FileNotFoundError: There is no such program.
        OSError: It could not be started.
        subprocess.TimeoutExpired: The machine did not get to it.
    """
    import subprocess  # noqa: PLC0415 - slow to import, and seldom needed

    if program(command) is None:
        # Who starts it later, below, has nobody to tell.
        raise FileNotFoundError(f"there is no program {command[0]!r} to tell")
    watchdog = (sys.executable, "-I", "-S", "-c", _WATCHDOG, f"{timeout_s:g}", *command)
    env = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    paper = _paper()
    try:
        durable.write_all(paper, msgspec.json.encode(report) + b"\n")
        os.lseek(paper, 0, os.SEEK_SET)
        subprocess.run(  # noqa: S603 - the root's owner named it
            ["/bin/sh", "-c", _DETACH, "alert", *watchdog],
            stdin=paper,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={**env, "ORCHESTRATOR_ROOT": root},
            start_new_session=True,
            timeout=_START_S,
            check=False,
        )
    finally:
        os.close(paper)


def program(command: Sequence[str]) -> str | None:
    """Return the file that is run as *command*: by our PATH, or from ``/``; None if none is."""
    import shutil  # noqa: PLC0415 - as in start

    name = command[0]
    place = os.path.join("/", name) if "/" in name else name  # noqa: PTH118 - may be a bare name
    return shutil.which(place, path=os.environ.get("PATH", os.defpath))


def _paper() -> int:
    """Return a nameless file: a report may be larger than a pipe, and the disk may be full."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("alert")
    import tempfile  # noqa: PLC0415 - where there is nothing better

    fd, path = tempfile.mkstemp()
    os.unlink(path)  # noqa: PTH108 - as everywhere here
    return fd
