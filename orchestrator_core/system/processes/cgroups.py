"""
The cgroup of an agent, where the system allows one.

An agent's cgroup is a sibling of the caller's own, and never inside another agent's: an
agent deployed from inside an agent must not end with it. So the path leaves out every
component of this package (``oc_…``). Whether a cgroup is usable is known only after its
creation: an old kernel has no ``cgroup.kill``.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from orchestrator_core.supervisor import procfs
from orchestrator_core.supervisor.cgroup import Cgroup

_MANAGED = re.compile(r"oc_[A-Za-z0-9_-]+")


def path_for(name: str) -> str | None:
    """Return the directory of a cgroup called *name*; None if the system allows none."""
    own = current_cgroup()
    if own is None or not _MANAGED.fullmatch(name):
        return None
    base = Path(*(part for part in own.parts if not part.startswith("oc_")))
    writable = os.access(base, os.W_OK) and os.access(base / "cgroup.procs", os.W_OK)
    return str(base / name) if writable else None


def create(directory: str) -> bool:
    """Create the cgroup *directory*, if it is missing; return whether it is usable."""
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
    """Return whether *directory* is a cgroup that this package created, and may kill."""
    mount = _mount()
    return (
        mount is not None
        and directory.startswith(f"{mount[1]}/")
        and os.path.normpath(directory) == directory
        and _MANAGED.fullmatch(Path(directory).name) is not None
    )


def current_cgroup() -> Path | None:
    """Return the directory of the calling process's cgroup (version 2), if it is visible."""
    mount = _mount()
    if mount is None:
        return None
    root, directory = mount
    for line in os.fsdecode(procfs.read("/proc/self/cgroup")).splitlines():
        hierarchy, _, path = line.partition("::")
        if hierarchy == "0" and f"{path}/".startswith(f"{root.rstrip('/')}/"):
            return Path(directory, path[len(root) :].lstrip("/"))
    return None


def includes_self(directory: str) -> bool:
    """Return whether the calling process is in the cgroup *directory*, or below it."""
    own = current_cgroup()
    return own is not None and own.is_relative_to(directory)


def _mount() -> tuple[str, str] | None:
    """
    Return the mount of the version 2 hierarchy, if it is visible: its root and its directory.

    The root is the visible part of the hierarchy: all of it, or a container's.
    """
    if sys.platform != "linux":
        return None
    for line in os.fsdecode(procfs.read("/proc/self/mountinfo")).splitlines():
        fields, _, file_system = line.partition(" - ")
        if file_system.startswith("cgroup2 "):
            root, directory = fields.split()[3:5]
            return root, directory
    return None
