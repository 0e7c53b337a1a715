"""A registry for tests of faults, and an update that the system refuses at one of its calls."""

import os

from orchestrator_core.exceptions import StorageError
from orchestrator_core.registry import TASK, Registry

#: The functions of `os` that durable files, locks and the registry call.
CALLS = ("open", "write", "pwrite", "fsync", "rename", "link", "unlink", "mkdir")
CALLS += ("fchmod", "dup", "read", "pread", "lstat", "fstat", "scandir", "listdir")


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


OK, REFUSED, UNKNOWN, COMPLETE = 10, 11, 12, 13


def exit_after_refusal(registry, which, number):
    """
    Update the registry in this process, whose call *which* fails with errno *number*, and exit.

    The exit code is the update's outcome. COMPLETE means that the update has no such call.
    """
    reached = []
    count = iter(range(1_000_000))

    def refusing(real):
        def call(*args, **kwargs):
            if next(count) == which:
                reached.append(which)
                raise OSError(number, os.strerror(number))
            return real(*args, **kwargs)

        return call

    for name in CALLS:
        setattr(os, name, refusing(getattr(os, name)))
    try:
        add(registry, "added")
    except StorageError as error:
        os._exit(UNKNOWN if "unknown" in error.hint else REFUSED)
    os._exit(OK if reached else COMPLETE)
