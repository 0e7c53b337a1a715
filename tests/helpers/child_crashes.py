"""Work in a forked process, which a real SIGKILL may end at any of its effects."""

import functools
import itertools
import os
import signal
import sys
import traceback
import warnings

from support.effects import Killed

from orchestrator_core.testing.effects import Effects


def in_child(work):
    """Run *work* in a fork; return its exit code: 1 for an error, negative for a signal."""
    sys.stdout.flush()
    sys.stderr.flush()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # xdist has threads; the child, none
        pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException:  # noqa: BLE001 - no error may get back into pytest
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def effects_of(work):
    """Return the names of the effects of *work*, which runs in a child."""
    reader, writer = os.pipe()

    def recorded():
        with Effects() as effects:
            work()
        os.write(writer, " ".join(name.split()[0] for name in effects.names).encode())

    assert 0 == in_child(recorded)
    os.close(writer)
    with os.fdopen(reader, "rb") as names:
        return names.read().decode().split()


def is_killed_at(number, when, work):
    """
    Run *work* in a child, and kill the child before or after effect *number*, from 0.

    Return False if the child has no such effect and completes.
    """

    def doomed():
        with Killed(number, when):
            work()

    code = in_child(doomed)
    assert code in {0, -signal.SIGKILL}, f"exit code {code} around effect {number}"
    return code != 0


def kill_at(number, when, work):
    """Run *work* in a child that is killed before or after effect *number*, from 0."""
    assert is_killed_at(number, when, work), f"the child was not killed {when} effect {number}"


def each_crash(work, prepare):
    """
    Kill *work* before and after each of its effects; yield after every death.

    Each run works on what *prepare* returns. That is yielded together with the crash's name.
    """
    for when in ("before", "after"):
        for number in itertools.count():
            subject = prepare()
            if not is_killed_at(number, when, functools.partial(work, subject)):
                break
            yield f"{when} effect {number}", subject
        assert number >= 4, "the effects were not seen"
