"""
Where a cgroup for an agent can be had, if anywhere.

Next to ourselves, but never inside another agent's: an agent deployed from
within an agent must not end with it, so every component of ours (``oc_…``) is
left out of the path. Whether a cgroup there is of use is known only when it has
been made: an old kernel has no ``cgroup.kill``.
"""

from __future__ import annotations

import functools
import os
import re
import sys
import time
from pathlib import Path

import attrs

from orchestrator_core.supervisor import procfs as proc
from orchestrator_core.supervisor.cgroup import Cgroup

_OURS = re.compile(r"oc_[A-Za-z0-9_-]+")


def path_for(name: str) -> str | None:
    """Return the directory that a cgroup called *name* would have; None if none can be had."""
    own = current_cgroup()
    if own is None or not _OURS.fullmatch(name):
        return None
    base = Path(*(part for part in own.parts if not part.startswith("oc_")))
    writable = os.access(base, os.W_OK) and os.access(base / "cgroup.procs", os.W_OK)
    return str(base / name) if writable else None


def create(directory: str) -> bool:
    """Make the cgroup *directory*, or find it made. False if it cannot be had, or is of no use."""
    if not is_managed(directory):
        return False
    try:
        Path(directory).mkdir(exist_ok=True)
    except OSError:
        return False
    if os.access(f"{directory}/cgroup.kill", os.W_OK):
        return True
    Cgroup(directory).remove()
    return False


def is_managed(directory: str) -> bool:
    """Tell whether *directory* is a cgroup of our making, so that it may be killed."""
    mount = _mount()
    return (
        mount is not None
        and directory.startswith(f"{mount.directory}/")
        and os.path.normpath(directory) == directory
        and _OURS.fullmatch(Path(directory).name) is not None
    )


def current_cgroup() -> Path | None:
    """Return the directory of the calling process's own cgroup (version 2), if it can be seen."""
    mount = _mount()
    if mount is None:
        return None
    for line in os.fsdecode(proc.read("/proc/self/cgroup")).splitlines():
        number, _, path = line.partition("::")
        if number == "0" and f"{path}/".startswith(f"{mount.root.rstrip('/')}/"):
            return Path(mount.directory, path[len(mount.root) :].lstrip("/"))
    return None


_TTL_S = 0.5  #: Nobody moves us about; and if somebody does, it is seen a moment later.
_cached: tuple[int, float, Path | None] = (0, 0.0, None)  #: By which process, and until when.


def includes_self(directory: str) -> bool:
    """
    Tell whether the calling process is in the cgroup *directory*, or below it.

    It may have been moved there, or away, half a second ago, and this does not know it yet.
    """
    global _cached  # noqa: PLW0603 - replaced whole, so that threads need no lock
    now, (pid, until, own) = time.monotonic(), _cached
    if own is None or pid != os.getpid() or now >= until:
        own = current_cgroup()
        _cached = os.getpid(), now + _TTL_S, own
    return own is not None and own.is_relative_to(directory)


@attrs.frozen
class _Mount:
    root: str  #: What part of the hierarchy is seen there: all of it, or a container's.
    directory: str


def _mount() -> _Mount | None:
    try:
        return _mounted()
    except LookupError:
        return None


@functools.cache  # Every end asks, more than once, and where it is it stays. No error is kept.
def _mounted() -> _Mount:
    if sys.platform != "linux":
        raise LookupError("there are no cgroups")
    for line in os.fsdecode(proc.read("/proc/self/mountinfo")).splitlines():
        mounted, _, kind = line.partition(" - ")
        if kind.startswith("cgroup2 "):
            root, directory = mounted.split()[3:5]
            return _Mount(root, directory)
    raise LookupError("no hierarchy of version 2 is to be seen")
