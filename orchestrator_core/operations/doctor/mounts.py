"""What file system a path is on, from the text of ``/proc/self/mountinfo``; and what that means."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import attrs

from orchestrator_core.operations.doctor.check import Answer, failed, ok, warning

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
    """Return the file system that *path*, absolute and without symlinks, is on."""
    found = None
    for line in mountinfo.splitlines():
        mount = _parsed(line)
        if mount is None or not path.is_relative_to(mount.point):
            continue
        # The longest mount point is the nearest; of two at one point, the later hides the other.
        if found is None or len(mount.point) >= len(found.point):
            found = mount
    return found


def _parsed(line: str) -> Mount | None:
    mounted, _, file_system = line.partition(" - ")
    fields, kinds = mounted.split(" "), file_system.split(" ")
    if len(fields) < 6 or len(kinds) < 3:  # noqa: PLR2004 - see proc(5)
        return None
    options = frozenset(f"{fields[5]},{kinds[2]}".split(","))
    return Mount(_plain(fields[4]), kinds[0], _plain(kinds[1]), options)


def _plain(field: str) -> str:
    """Return a field as it is meant: blanks are written in octal there."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), field)


# --- what it means ----------------------------------------------------------------------------

_LOCAL = "use a root on a local disk"
_LASTING = "use a root on a disk, if agents are to be accounted for after that"

_NETWORK = (
    "a network file system: locks may not hold between machines, a lost server stops "
    "everybody, and no other machine can see this one's processes"
)

_MEANINGS: dict[str, tuple[str, str]] = {
    **dict.fromkeys(("nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ceph"), (_NETWORK, _LOCAL)),
    **dict.fromkeys(("lustre", "gpfs", "glusterfs", "beegfs", "ncpfs"), (_NETWORK, _LOCAL)),
    **dict.fromkeys(
        ("9p", "virtiofs", "vboxsf", "vmhgfs", "prl_fs", "drvfs"),
        (
            (
                "shared by a virtual machine's host: sockets, FIFOs and locks may not work, "
                "and fsync may stop at the host's memory"
            ),
            "use a root on a disk of the machine's own",
        ),
    ),
    "overlay": ("a container's own layer: it is gone with the container", "mount a volume there"),
    "aufs": ("a container's own layer: it is gone with the container", "mount a volume there"),
    "tmpfs": ("memory: all of it is gone after a reboot, journals and archives too", _LASTING),
    "ramfs": ("memory: all of it is gone after a reboot, journals and archives too", _LASTING),
}

_UNABLE = frozenset({"vfat", "msdos", "exfat", "fat", "hfs", "udf", "iso9660"})

#: Options under which a fsync that returned may have done nothing.
_CARELESS = frozenset({"nobarrier", "barrier=0", "eatmydata", "volatile"})


def assess(mount: Mount) -> Answer:
    """Tell what a root on such a file system has to expect."""
    found = f"{mount.kind} at {mount.point}"
    if "ro" in mount.options:
        return failed(
            f"{found}, read-only", f"mount -o remount,rw {mount.point}, or use a root elsewhere"
        )
    if mount.kind in _UNABLE:
        return failed(f"{found}: it has no permissions, sockets or hard links", _LOCAL)
    careless = sorted(mount.options & _CARELESS)
    if careless:
        return warning(
            f"{found}, with {', '.join(careless)}: a power failure may take what was durable",
            f"mount it without {', '.join(careless)}",
        )
    if mount.kind in _MEANINGS:
        means, remedy = _MEANINGS[mount.kind]
        return warning(f"{found}: {means}", remedy)
    if mount.kind.startswith("fuse"):
        return warning(
            f"{found} ({mount.source}), run by a program: locks, fsync and sockets are as it "
            "has them",
            _LOCAL,
        )
    return ok(found)
