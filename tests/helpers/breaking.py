"""Run a piece of code in a forked process, and kill it at one of its effects."""

import os
import signal
import sys
import traceback
import warnings

from support.effects import Killed

from orchestrator_core.testing.effects import Effects


def in_child(work):
    """Run *work* in a forked process; return the signal that killed it, or 0. It must not raise."""
    sys.stdout.flush()
    sys.stderr.flush()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # xdist has threads; the child, none
        pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException:  # noqa: BLE001 - nothing may get back into pytest
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert not os.WIFEXITED(status) or os.WEXITSTATUS(status) == 0, "the child raised"
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def calls_of(work):
    """Return the names of the effects of *work*, run in a child that leaves no trace in ours."""
    end, begin = os.pipe()

    def counted():
        with Effects() as effects:
            work()
        os.write(begin, " ".join(name.split()[0] for name in effects.names).encode())

    in_child(counted)
    os.close(begin)
    with os.fdopen(end, "rb") as names:
        return names.read().decode().split()


def killed_at(number, when, work):
    """Run *work* in a child that is killed before or after effect *number*, counted from 0."""

    def doomed():
        with Killed(number, when):
            work()

    assert signal.SIGKILL == in_child(doomed), f"the child was not killed {when} effect {number}"
