"""Which boot of the machine this is: what was so before it may not be so any more."""

from __future__ import annotations

import functools
import sys
from pathlib import Path


@functools.cache
def boot_id() -> str:
    """Return what tells this boot of this machine from every other."""
    if sys.platform == "linux":
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    import subprocess  # noqa: PLC0415 - slow to import, and needed on macOS alone

    asked = subprocess.run(
        ["/usr/sbin/sysctl", "-n", "kern.bootsessionuuid"], capture_output=True, check=True
    )
    return asked.stdout.decode().strip()
