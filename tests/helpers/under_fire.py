"""A registry under fire: its process killed, or refused, at any of its calls to the system."""

import functools
import itertools
import os
import signal
import traceback
import warnings

from orchestrator_core.exceptions import StorageError
from orchestrator_core.registry import TASK, Registry

#: Every function of `os` that the file recipe, the locks and the registry act through.
EFFECTS = ("open", "close", "write", "pwrite", "fsync", "rename", "link", "unlink", "mkdir")
EFFECTS += ("fchmod", "dup", "read", "pread", "lstat", "fstat", "scandir", "listdir")


def forked(work):
    """Run *work* in a child of ours; return its exit code, negative if a signal ended it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads
        pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:  # noqa: BLE001 - told by the exit code
            traceback.print_exc()
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def intercept(before=lambda _: None, after=lambda _: None, effects=EFFECTS):
    """Let *before* and *after* see the number of each of *effects* from now on, in this process."""
    count = iter(range(1_000_000))

    def wrap(real):
        def call(*args, **kwargs):
            number = next(count)
            before(number)
            try:
                return real(*args, **kwargs)
            finally:
                after(number)

        return call

    for name in effects:
        setattr(os, name, wrap(getattr(os, name)))


def killed_at(work, number, when):
    """Do *work* in a child that dies at its effect *number*; False if it got through."""

    def die(now):
        if now == number:
            os.kill(os.getpid(), signal.SIGKILL)

    def suicidal():
        intercept(**{when: die})
        work()

    code = forked(suicidal)
    assert code in {0, -signal.SIGKILL}
    return code != 0


def each_crash(work, prepare):
    """
    Kill *work* before and after each of its effects; yield after every death.

    Each time it works on what *prepare* returns, which is yielded with the crash.
    """
    for when in ("before", "after"):
        for number in itertools.count():
            made = prepare()
            if not killed_at(functools.partial(work, made), number, when):
                break
            yield f"{when} effect {number}", made
        assert number > 8, "the effects were not seen"


def registry_in(directory):
    return Registry(directory / "AGENT_REGISTRY.json", schema=TASK)


def litter(directory):
    return {entry.name for entry in directory.iterdir()} - {
        "AGENT_REGISTRY.json",
        "AGENT_REGISTRY.json.lock",
        "AGENT_REGISTRY.json.settle.lock",
        "AGENT_REGISTRY.json.queue.lock",
        ".AGENT_REGISTRY.json.next-0",
        ".AGENT_REGISTRY.json.next-1",
    }


def add(registry, name):
    with registry.transaction() as document:
        document["agents"].append({"id": name})


def set_x(registry):
    with registry.transaction() as document:
        document["x"] = 1


def names(registry):
    return [entry["id"] for entry in registry.read()["agents"]]


OK, REFUSED, UNKNOWN, THROUGH = 10, 11, 12, 13


def refuse(registry, which, number):
    """Update in a process whose call *which* fails; exit with how that went."""
    reached = []

    def fail(now):
        if now == which:
            reached.append(now)
            raise OSError(number, os.strerror(number))

    exit_now = os._exit
    intercept(
        before=fail, effects=set(EFFECTS) - {"close"}
    )  # after an fsync, it has nothing to say
    try:
        add(registry, "added")
    except StorageError as error:
        exit_now(UNKNOWN if "unknown" in error.hint else REFUSED)
    exit_now(OK if reached else THROUGH)
