"""The file system of a path, from the text of ``/proc/self/mountinfo``, and what it implies."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import attrs

from orchestrator_core.operations.doctor.check import Check

if TYPE_CHECKING:
    from pathlib import Path


@attrs.frozen
class Mount:
    """A mounted file system."""

    point: str
    kind: str
    source: str
    options: frozenset[str]  #: Of the mount, and of the file system.


def mount_of(path: Path, mountinfo: str) -> Mount | None:
    """Return the file system of *path*, which is absolute and without symlinks."""
    mounts = [mount for line in mountinfo.splitlines() if (mount := _parse(line)) is not None]
    above = (mount for mount in reversed(mounts) if path.is_relative_to(mount.point))
    # The longest mount point is the nearest; of two at one point, the later hides the other.
    return max(above, key=lambda mount: len(mount.point), default=None)


def _parse(line: str) -> Mount | None:
    mounted, _, file_system = line.partition(" - ")
    fields, kinds = mounted.split(" "), file_system.split(" ")
    if len(fields) < 6 or len(kinds) < 3:  # noqa: PLR2004 - see proc(5)
        return None
    options = frozenset(f"{fields[5]},{kinds[2]}".split(","))
    return Mount(_unescape(fields[4]), kinds[0], _unescape(kinds[1]), options)


def _unescape(field: str) -> str:
    """Return a field as plain text: the kernel writes blanks in octal."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), field)


# --- what it implies ----------------------------------------------------------------------------

_LOCAL = "use a root on a local disk"

_NETWORK = (
    "a network file system: locks may not hold between machines, a lost server stops "
    "every client, and no other machine can see the processes of this one"
)
_SHARED = (
    "shared by a virtual machine's host: sockets, FIFOs and locks may not work, "
    "and fsync may stop at the host's memory"
)
_LAYER = "a container's own layer: it is gone with the container"
_MEMORY = "memory: all of it is gone after a reboot, journals and archives too"

_RISKS: tuple[tuple[str, str, str], ...] = (
    ("nfs nfs4 cifs smb3 smbfs afs ceph", _NETWORK, _LOCAL),
    ("lustre gpfs glusterfs beegfs ncpfs", _NETWORK, _LOCAL),
    ("9p virtiofs vboxsf vmhgfs prl_fs drvfs", _SHARED, "use a root on the machine's own disk"),
    ("overlay aufs", _LAYER, "mount a volume there"),
    ("tmpfs ramfs", _MEMORY, "use a root on a disk, if records must survive a reboot"),
)
"""File systems with a risk: their kinds, the risk, the remedy."""

_UNSUPPORTED = frozenset({"vfat", "msdos", "exfat", "fat", "hfs", "udf", "iso9660"})

#: With these options, fsync may return before the data is durable.
_UNSAFE_OPTIONS = frozenset({"nobarrier", "barrier=0", "eatmydata", "volatile"})


def assess(mount: Mount) -> Check:
    """Report what a root on such a file system has to expect."""
    found = f"{mount.kind} at {mount.point}"
    if "ro" in mount.options:
        remedy = f"mount -o remount,rw {mount.point}, or use a root elsewhere"
        return Check.failed(f"{found}, read-only", remedy)
    if mount.kind in _UNSUPPORTED:
        return Check.failed(f"{found}: it has no permissions, sockets or hard links", _LOCAL)
    if unsafe := ", ".join(sorted(mount.options & _UNSAFE_OPTIONS)):
        found = f"{found}, with {unsafe}: a power failure may destroy durable data"
        return Check.warning(found, f"mount it without {unsafe}")
    for kinds, risk, remedy in _RISKS:
        if mount.kind in kinds.split():
            return Check.warning(f"{found}: {risk}", remedy)
    if mount.kind.startswith("fuse"):
        found = (
            f"{found} ({mount.source}), run by a program, which defines locks, fsync and sockets"
        )
        return Check.warning(found, _LOCAL)
    return Check.ok(found)
