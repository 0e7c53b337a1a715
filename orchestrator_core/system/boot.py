"""The identity of the machine's current boot: pids and locks are valid for one boot only."""

from __future__ import annotations

import functools
import sys
from pathlib import Path


@functools.cache
def boot_id() -> str:
    """Return the id of the current boot, which no other boot has."""
    if sys.platform == "linux":
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    import subprocess  # noqa: PLC0415 - slow to import, and needed on macOS alone

    return (
        subprocess.check_output(["/usr/sbin/sysctl", "-n", "kern.bootsessionuuid"]).decode().strip()
    )
