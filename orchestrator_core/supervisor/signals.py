"""
Signals: a set of received signals behind a descriptor that becomes readable (self-pipe).

Before the commit every signal has its default effect: a TERM or a vanished session should
end the supervisor at once. After it, the supervisor handles the five signals that have a
meaning and ignores all others, since an agent may send its parent any signal.
"""

from __future__ import annotations

import posix

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
else:
    import _signal as signal  # ``signal`` imports enum, which takes longer than this package.

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
    The signals received since the last :meth:`drain`.

    Attributes:
        fd: Readable when there are any.
    """

    def __init__(self) -> None:
        self._received: set[int] = set()
        self.fd, wakeup_fd = posix.pipe()
        posix.set_blocking(self.fd, False)
        posix.set_blocking(wakeup_fd, False)
        signal.set_wakeup_fd(wakeup_fd, warn_on_full_buffer=False)
        for number in _HANDLED:
            signal.signal(number, self._on_signal)
        _set_all_but(_UNCHANGED, signal.SIG_IGN)

    def _on_signal(self, number: int, _frame: object) -> None:
        self._received.add(number)

    def drain(self) -> set[int]:
        """Return the signals since the last call, each once."""
        try:
            posix.read(self.fd, 4096)
        except BlockingIOError:
            pass
        received, self._received = self._received, set()
        return received


def reset_handlers() -> None:
    """Give every signal its default effect, and unblock all."""
    _set_all_but(_CANNOT_BE_IGNORED, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def block_sigterm() -> None:
    """Keep every later SIGTERM pending, also across exec, until the program unblocks it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [TERM])


def ignore_terminal_signals() -> None:
    """Ignore, also across exec, a terminal's signals and USR1; give all others their default."""
    _set_all_but(_CANNOT_BE_IGNORED | _FROM_THE_TERMINAL, signal.SIG_DFL)
    for number in _FROM_THE_TERMINAL:
        signal.signal(number, signal.SIG_IGN)


def send(pidfd: int, number: int) -> None:
    """Send a signal through a pidfd, unless the process is gone or runs as another user."""
    try:
        signal.pidfd_send_signal(pidfd, number)
    except OSError:
        pass


def send_to_child(pid: int, number: int) -> None:
    """
    Send a signal to an unreaped child, or to the group it leads if *pid* is negative.

    Nothing happens if the child runs as another user. No other process can have the pid
    before the supervisor reaps the child.
    """
    try:
        posix.kill(pid, number)
    except OSError:
        pass


def _set_all_but(others: set[int], action: int) -> None:
    for number in range(1, signal.NSIG):
        if number not in others:
            try:
                signal.signal(number, action)
            except (OSError, ValueError):
                pass  # The C library reserves a few real-time signals.
