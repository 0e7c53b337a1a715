"""The abilities of this machine that a test needs, found without the library."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ORDINARY = 54321  #: The uid of a user that no machine has.
_MOUNTS = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"))


def missing(what):
    """Return None if *what* can be had here, else what is missing, in words."""
    return _MISSING[what]()


def may_create_cgroups():
    """Return whether this user may create a cgroup beside the one that this process is in."""
    return missing("cgroup") is None


def _root():
    return None if os.geteuid() == 0 else "root"


def _cgroup():
    own = [line for line in Path("/proc/self/cgroup").read_text().splitlines() if line[:3] == "0::"]
    for mount in _MOUNTS:
        if own and (mount / "cgroup.controllers").exists():
            here = mount / own[0][4:].lstrip("/")
            if os.access(here if here == mount else here.parent, os.W_OK):
                return None
    return "a cgroup that this user may create"


def elsewhere(*argv):
    """Return the command that runs *argv* in a new pid namespace, with its own ``/proc``."""
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    return ["unshare", *user, "--pid", "--fork", "--kill-child", "--mount-proc", *argv]


def _pid_namespace():
    try:
        done = subprocess.run(elsewhere("true"), capture_output=True, check=False)
    except OSError:
        return "unshare"
    return None if done.returncode == 0 else "a pid namespace that this user may create"


def as_ordinary_user(*argv):
    """Return the command with which root runs *argv* as a user without any right."""
    return ["setpriv", "--reuid", str(ORDINARY), "--regid", str(ORDINARY), "--clear-groups", *argv]


def _ordinary_user():
    # `env` is the first program of that user, without root's rights to read.
    probe = as_ordinary_user("env", sys.executable, "-c", "import msgspec")
    try:
        done = subprocess.run(probe, capture_output=True, check=False)
    except OSError:
        return "setpriv"
    return None if done.returncode == 0 else "a Python that other users can run"


_MISSING = {
    "root": _root,
    "cgroup": _cgroup,
    "pid namespace": _pid_namespace,
    "ordinary user": _ordinary_user,
}
