"""
Alerts: notify a command and a callback when a cleanup has failed.

- The command is that of the user's own ``orchestrator.toml`` names, or an approved one of the
  root. It runs wherever the agent is unwound, mostly in a supervisor that became the unwinder.
- The callback is called in the process that has registered it.
- The unwinding waits for neither. A shell starts the command and exits at once. The command
  runs below a watchdog that kills it after a timeout, in a separate session and with a minimal
  environment: it is no process of the agent, and it inherits no secret.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
import weakref
from typing import IO, TYPE_CHECKING, Any

import attrs
import msgspec

from orchestrator_core.exceptions import InvalidInput
from orchestrator_core.model.outcome import EndReport
from orchestrator_core.saga.observer import Observer
from orchestrator_core.system import log
from orchestrator_core.system.clock import timestamp
from orchestrator_core.system.interpreter import find_python
from orchestrator_core.system.json_values import JsonValues

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from orchestrator_core.deployment.context import RootContext
    from orchestrator_core.saga import UnwindReport

    OnFailedCleanup = Callable[["FailedCleanup"], object]

_ENVIRONMENT = ("HOME", "LANG", "LC_ALL", "LOGNAME", "PATH", "USER")
_NOT_APPROVED = (
    "[alerts] in the root's orchestrator.toml is not approved: orchestrator-core approve"
)
_START_TIMEOUT_S = 5.0  #: For a shell to start one program and exit.


@attrs.frozen(kw_only=True)
class FailedCleanup(JsonValues):
    """A failed cleanup: what is left, and when the next attempt is."""

    what: str  #: ``stuck``: some steps could not be undone. ``reaping``: a sweep could not reap.
    subject: str  #: The agent, or the subject of the finding.
    root: str
    at: str
    errors: tuple[str, ...]
    survivors: tuple[str, ...] = ()  #: Processes that are still alive: "pid (name)".
    retry_at: float | None = None  #: Seconds since 1970; None: at the next sweep.
    report: dict[str, Any] | None = None  #: For ``stuck``: the end's whole report.


class Alerts(Observer):
    """Sends an alert for each failed cleanup, of a saga that it observes or of a sweep."""

    def __init__(
        self, context: RootContext, on_failed_cleanup: OnFailedCleanup | None = None
    ) -> None:
        self._context = context
        self._on_failed_cleanup = on_failed_cleanup

    def saga_stuck(self, saga_id: str, report: UnwindReport) -> None:
        """Send an alert: some steps of a saga could not be undone yet."""
        end = EndReport.from_unwind(report)
        self._notify(
            "stuck",
            saga_id,
            end.errors,
            survivors=end.survivors,
            retry_at=report.retry_at,
            report=end.to_dict(),
        )

    def reaping_failed(self, subject: str, error: str) -> None:
        """Send an alert: a sweep could not reap something, and no saga is STUCK for it."""
        self._notify("reaping", subject, (error,))

    def _notify(self, what: str, subject: str, errors: tuple[str, ...], **details: Any) -> None:  # noqa: ANN401 - the other fields
        """Notify the callback and the command. Never raise, and never wait for them."""
        root = str(self._context.layout.root)
        failed = FailedCleanup(
            what=what, subject=subject, root=root, at=timestamp(), errors=errors, **details
        )
        if self._on_failed_cleanup is not None:
            _run_callback(self._on_failed_cleanup, failed)
        try:
            self._run_command(failed)
        except Exception as error:  # noqa: BLE001 - see the docstring
            _log_failure(subject, error)

    def _run_command(self, failed: FailedCleanup) -> None:
        alerts, root = self._context.settings.alerts, self._context.layout.root
        if alerts.command:
            report = failed.to_dict()
            run_detached(alerts.command, report, timeout_s=alerts.timeout_s, root=str(root))
            return
        from orchestrator_core.model import settings  # noqa: PLC0415 - slow to import, and loaded now

        if "alerts" in settings.unapproved(root):
            raise InvalidInput(f"[alerts] of {root / settings.NAME} is not approved")


def _log_failure(subject: str, error: BaseException) -> None:
    """An alert could not be sent."""
    log.emit(logging.ERROR, "alert.failed", subject=subject, error=repr(error))


# --- the callback -------------------------------------------------------------------------------


_callbacks: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
_EXIT_TIMEOUT_S = 5.0  #: For all running callbacks together, when the program exits.


def _run_callback(callback: OnFailedCleanup, failed: FailedCleanup) -> None:
    """Run *callback* in a thread, because it may hang or raise."""

    def call() -> None:
        try:
            callback(failed)
        except BaseException as error:  # noqa: BLE001 - foreign code
            _log_failure(failed.subject, error)

    thread = threading.Thread(target=call, name="orchestrator-core-alert", daemon=True)
    try:
        thread.start()
        _callbacks.add(thread)
    except RuntimeError as error:  # The system has no more threads.
        _log_failure(failed.subject, error)


@atexit.register
def _join_callbacks() -> None:
    deadline = time.monotonic() + _EXIT_TIMEOUT_S
    for thread in list(_callbacks):
        thread.join(max(0.0, deadline - time.monotonic()))


# --- the command --------------------------------------------------------------------------------

#: Exits at once, so that init adopts the program it has started. The report goes through
#: descriptor 3, because a shell redirects the standard input of a background program.
_DETACH = 'exec 3<&0; "$@" <&3 3<&- &'

#: Kills the command's process group after a timeout (argument 1). The calling process may
#: ignore signals, so the watchdog restores the default handlers for the command.
_WATCHDOG = """
import os, signal, subprocess, sys
signal.pthread_sigmask(signal.SIG_SETMASK, [])
for ignored in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
    signal.signal(ignored, signal.SIG_DFL)
child = subprocess.Popen(sys.argv[2:], start_new_session=True)
try:
    child.wait(float(sys.argv[1]))
except subprocess.TimeoutExpired:
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
"""


def run_detached(command: Sequence[str], report: object, *, timeout_s: float, root: str) -> None:
    """
    Start *command* with *report* as JSON on its standard input, and do not wait for it.

    A watchdog kills the command after *timeout_s*. The working directory is ``/``, and the
    output is discarded.

    Raises:
        FileNotFoundError: There is no such program.
        OSError: The program could not be started.
        subprocess.TimeoutExpired: The shell has not exited within 5 seconds.
    """
    import subprocess  # noqa: PLC0415 - slow to import, and seldom needed

    if find_program(command) is None:
        # The watchdog's own error would go nowhere.
        raise FileNotFoundError(f"there is no program {command[0]!r} for alerts")
    watchdog = (find_python(), "-I", "-S", "-c", _WATCHDOG, f"{timeout_s:g}", *command)
    env = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    with _anonymous_file() as stdin:
        stdin.write(msgspec.json.encode(report) + b"\n")
        stdin.seek(0)
        subprocess.run(  # noqa: S603 - the owner of the root has named it
            ["/bin/sh", "-c", _DETACH, "alert", *watchdog],
            stdin=stdin,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={**env, "ORCHESTRATOR_ROOT": root},
            start_new_session=True,
            timeout=_START_TIMEOUT_S,
            check=False,
        )


def find_program(command: Sequence[str]) -> str | None:
    """Return the file of *command*, by PATH or relative to ``/``; None if there is none."""
    import shutil  # noqa: PLC0415 - as in run_detached

    name = command[0]
    path = os.path.join("/", name) if "/" in name else name  # noqa: PTH118 - may be a bare name
    return shutil.which(path, path=os.environ.get("PATH", os.defpath))


def _anonymous_file() -> IO[bytes]:
    """Return a file without a name: a report may exceed a pipe, and the disk may be full."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("alert"), "w+b")
    import tempfile  # noqa: PLC0415 - for systems without memfd_create

    return tempfile.TemporaryFile()
