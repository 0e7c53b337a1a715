"""Checks of the root's file system: its kind, its free space, and what its calls really do."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from orchestrator_core.operations.doctor.check import Check, Environment, run_python
from orchestrator_core.operations.doctor.root import TRIAL_PREFIX, existing_above

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_LOCAL = "use a root on a local disk: --root DIR"
_LOCAL_DISK = "use a root on a local disk"
_FREE_SPACE = "orchestrator-core gc, or free some on that file system"

_LOW_SPACE, _NO_SPACE = 200 << 20, 20 << 20  #: Bytes.
_LOW_INODES, _NO_INODES = 10_000, 1_000
_CLOCK_SKEW_S = 5.0  #: More than the resolution of any file system's clock.


class Mount(NamedTuple):
    """A mounted file system, as psutil describes it."""

    source: str
    point: str
    kind: str
    options: str  #: Separated by commas.


def kind(environment: Environment) -> Check:
    """Report the kind of file system that the root is on, or will be, and what that implies."""
    if environment.root is None:
        return Check.unknown("there is no root", "name one: --root DIR")
    import psutil  # type: ignore[import-untyped]  # noqa: PLC0415 - may be missing

    mounts = [Mount(*mount) for mount in psutil.disk_partitions(all=True)]
    mount = mount_of(existing_above(environment.root).resolve(), mounts)
    if mount is None:
        return Check.unknown("the mounted file systems cannot be read", "see the output of `mount`")
    return assess(mount)


def mount_of(path: Path, mounts: Sequence[Mount]) -> Mount | None:
    """Return the file system of *path*, which is absolute and without symlinks."""
    above = (mount for mount in reversed(mounts) if path.is_relative_to(mount.point))
    # The longest mount point is the nearest; of two at one point, the later hides the other.
    return max(above, key=lambda mount: len(mount.point), default=None)


def space(environment: Environment) -> Check:
    """Check that there is room for logs, journals and registries."""
    if environment.root is None:
        return Check.unknown("there is no root", "name one: --root DIR")
    status = os.statvfs(existing_above(environment.root))
    free, inodes = status.f_bavail * status.f_frsize, status.f_favail
    space_found, inodes_found = f"{free >> 20} MiB", f"{inodes} inodes"
    checks = [_compare_free(free, space_found, _LOW_SPACE, _NO_SPACE)]
    if not status.f_files:  # The file system has no limit.
        return Check.worst_of(checks, well=f"{space_found} are free")
    checks.append(_compare_free(inodes, inodes_found, _LOW_INODES, _NO_INODES))
    return Check.worst_of(checks, well=f"{space_found} and {inodes_found} are free")


def _compare_free(free: int, found: str, low: int, none: int) -> Check:
    return Check.by_threshold(free, f"only {found} are free", _FREE_SPACE, low=low, none=none)


# --- what its kind implies ----------------------------------------------------------------------

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
    ("nfs nfs4 cifs smb3 smbfs afs ceph", _NETWORK, _LOCAL_DISK),
    ("lustre gpfs glusterfs beegfs ncpfs", _NETWORK, _LOCAL_DISK),
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
    options = set(mount.options.split(","))
    if "ro" in options:
        remedy = f"mount -o remount,rw {mount.point}, or use a root elsewhere"
        return Check.failed(f"{found}, read-only", remedy)
    if mount.kind in _UNSUPPORTED:
        return Check.failed(f"{found}: it has no permissions, sockets or hard links", _LOCAL_DISK)
    if unsafe := ", ".join(sorted(options & _UNSAFE_OPTIONS)):
        found = f"{found}, with {unsafe}: a power failure may destroy durable data"
        return Check.warning(found, f"mount it without {unsafe}")
    for kinds, risk, remedy in _RISKS:
        if mount.kind in kinds.split():
            return Check.warning(f"{found}: {risk}", remedy)
    if mount.kind.startswith("fuse"):
        found = (
            f"{found} ({mount.source}), run by a program, which defines locks, fsync and sockets"
        )
        return Check.warning(found, _LOCAL_DISK)
    return Check.ok(found)


# --- what its calls do ------------------------------------------------------------------------


def operations(environment: Environment) -> Check:
    """Try every call that the package needs, in a private directory inside the root."""
    if environment.layout is None:
        return Check.ok("not tried: there is no root yet")
    root = environment.layout.root
    try:
        place = tempfile.mkdtemp(prefix=TRIAL_PREFIX, dir=root)
    except OSError as error:
        found = f"nothing can be created in {root}: {error.strerror}"
        return Check.failed(found, "see: root, file system, space")
    try:
        checks = [_try(name, trial, Path(place)) for name, trial in _TRIALS.items()]
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return Check.worst_of(checks, well=f"all calls work as needed: {', '.join(_TRIALS)}")


def _try(name: str, trial: Callable[[Path], str | None], place: Path) -> Check:
    """Run a trial, which returns what does not work, if anything."""
    try:
        problem = trial(place)
    except (OSError, subprocess.SubprocessError) as error:
        problem = str(error)
    return Check.failed(f"{name}: {problem}", _LOCAL) if problem else Check.ok(name)


_CONTENDER = """\
import fcntl, sys
try:
    fcntl.flock(open(sys.argv[1], "rb+"), fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    sys.exit(3)
"""


def _locks(place: Path) -> str | None:
    path = place / "locked"
    with path.open("wb+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if run_python(_CONTENDER, str(path)) == 0:
            return "a lock does not keep another process out"
        fcntl.flock(file, fcntl.LOCK_UN)
        if run_python(_CONTENDER, str(path)) != 0:
            return "a released lock still keeps other processes out"
    return None


def _rename(place: Path) -> str | None:
    old, new = place / "old", place / "new"
    old.write_bytes(b"old")
    new.write_bytes(b"new")
    with old.open("rb") as reader:
        os.rename(new, old)  # noqa: PTH104 - the call under test
        if old.read_bytes() != b"new" or new.exists():
            return "a file renamed over another is not in its place"
        if reader.read() != b"old":
            return "a reader of a replaced file does not see the old content any more"
    return None


def _fsync(place: Path) -> str | None:
    for path, flags in ((place / "synced", os.O_RDWR | os.O_CREAT), (place, os.O_RDONLY)):
        fd = os.open(path, flags, 0o600)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    return None


def _hard_links(place: Path) -> str | None:
    first, second = place / "linked", place / "linked too"
    first.touch()
    os.link(first, second)
    same = first.samefile(second)
    with contextlib.suppress(FileExistsError):
        os.link(first, second)
        return "a link overwrites an existing name"
    return None if same else "two names of one file are not the same file"


def _fifos(place: Path) -> str | None:
    path = place / "fifo"
    os.mkfifo(path, 0o600)
    reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    writing = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    try:
        os.write(writing, b"data")
        return None if os.read(reading, 10) == b"data" else "written data does not arrive"
    finally:
        os.close(reading)
        os.close(writing)


def _sockets(place: Path) -> str | None:
    # Through the directory's descriptor, because the path may be too long for an address.
    directory = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    try:
        short = f"/proc/self/fd/{directory}/socket"
        address = short if sys.platform == "linux" else str(place / "socket")
        with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
            server.bind(address)
            server.listen(1)
            client.settimeout(5)
            client.connect(address)
    finally:
        os.close(directory)
    return None


def _modes(place: Path) -> str | None:
    path = place / "private"
    path.touch()
    path.chmod(0o600)
    mode = stat.S_IMODE(path.stat().st_mode)
    return None if mode == 0o600 else f"a file created as 0600 is {mode:04o}"  # noqa: PLR2004 - a mode


def _times(place: Path) -> str | None:
    (place / "now").touch()
    skew = (place / "now").stat().st_mtime - time.time()
    if abs(skew) > _CLOCK_SKEW_S:
        return f"its clock and the clock of this machine differ by {skew:+.0f} s"
    return None


_TRIALS: dict[str, Callable[[Path], str | None]] = {
    "locks": _locks,
    "rename": _rename,
    "fsync": _fsync,
    "hard links": _hard_links,
    "FIFOs": _fifos,
    "sockets": _sockets,
    "modes": _modes,
    "times": _times,
}
