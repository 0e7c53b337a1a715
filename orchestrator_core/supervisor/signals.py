"""
Signals as news: what came is noted, and a descriptor becomes readable.

Until the gate is passed every signal has its default effect: there is nothing
to protect, and a TERM or a vanished session should end us at once. From then on
the few that mean something are noted and all others are ignored: an agent may
send its parent anything.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
else:
    import _signal as signal  # ``signal`` itself imports enum: half of our start-up time.

TERM, KILL, CONT = signal.SIGTERM, signal.SIGKILL, signal.SIGCONT
HUP, INT, USR1, CHLD = signal.SIGHUP, signal.SIGINT, signal.SIGUSR1, signal.SIGCHLD

_HANDLED = (TERM, HUP, INT, USR1, CHLD)
_CANNOT_BE_IGNORED: set[int] = {signal.SIGKILL, signal.SIGSTOP}
_FROM_THE_TERMINAL: set[int] = {HUP, INT, USR1, signal.SIGQUIT, signal.SIGTSTP}
_FROM_THE_TERMINAL |= {signal.SIGTTIN, signal.SIGTTOU}
_FAULTS = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT}
_FAULTS |= {signal.SIGTRAP, signal.SIGSYS}
_UNCHANGED = {CONT, signal.SIGWINCH, *_HANDLED, *_FAULTS, *_CANNOT_BE_IGNORED}


class SignalQueue:
    """
    The signals that have come since the last look.

    Attributes:
        fd: Readable when there are any.
    """

    def __init__(self) -> None:
        self._noted: set[int] = set()
        self.fd, wake = os.pipe()
        os.set_blocking(self.fd, False)
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        for noted in _HANDLED:
            signal.signal(noted, self._on_signal)
        for number in range(1, signal.NSIG):
            if number not in _UNCHANGED:
                _set(number, signal.SIG_IGN)

    def _on_signal(self, number: int, _frame: object) -> None:
        self._noted.add(number)

    def drain(self) -> set[int]:
        """Return what came since the last look, and forget it."""
        try:
            os.read(self.fd, 4096)
        except BlockingIOError:
            pass
        came, self._noted = self._noted, set()
        return came


def reset_handlers() -> None:
    """Give every signal its default effect, and block none."""
    _default_but(_CANNOT_BE_IGNORED)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def block_sigterm() -> None:
    """Keep every SIGTERM from now on pending, across exec too, until it is unblocked."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [TERM])


def ignore_terminal_signals() -> None:
    """Ignore, across exec too, what a terminal sends, and late requests; nothing else."""
    for number in _FROM_THE_TERMINAL:
        _set(number, signal.SIG_IGN)
    _default_but(_CANNOT_BE_IGNORED | _FROM_THE_TERMINAL)


def send(pidfd: int, number: int) -> bool:
    """Send a signal through a pidfd; False if its process is gone, or not ours to signal."""
    try:
        signal.pidfd_send_signal(pidfd, number)
    except OSError:
        return False
    return True


def send_to_child(pid: int, number: int) -> bool:
    """Send a signal to a child of ours, or to the group it leads if *pid* is negative."""
    try:
        os.kill(pid, number)
    except OSError:
        return False  # It runs as another user; the pid is still its own until we reap it.
    return True


def _default_but(others: set[int]) -> None:
    for number in range(1, signal.NSIG):
        if number not in others:
            _set(number, signal.SIG_DFL)


def _set(number: int, action: int) -> None:
    try:
        signal.signal(number, action)
    except (OSError, ValueError):
        pass  # The C library keeps a few real-time signals for itself.
