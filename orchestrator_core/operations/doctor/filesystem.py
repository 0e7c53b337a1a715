"""Checks of the file system that the root is on: what it is, what it really does, its space."""

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
from typing import TYPE_CHECKING

from orchestrator_core.operations.doctor.check import (
    Answer,
    Environment,
    failed,
    ok,
    unknown,
    warning,
    worst_of,
)
from orchestrator_core.operations.doctor.mounts import assess, mount_of
from orchestrator_core.operations.doctor.root import existing_above
from orchestrator_core.supervisor import procfs as proc

if TYPE_CHECKING:
    from collections.abc import Callable

_LOCAL = "use a root on a local disk: --root DIR"

_LOW_SPACE, _NO_SPACE = 200 << 20, 20 << 20
_LOW_INODES, _NO_INODES = 10_000, 1_000


def kind(subject: Environment) -> Answer:
    """Tell on what kind of file system the root is, or will be, and what that means."""
    if subject.root is None:
        return unknown("there is no root", "name one: --root DIR")
    text = os.fsdecode(proc.read("/proc/self/mountinfo"))
    mount = mount_of(existing_above(subject.root).resolve(), text)
    if mount is None:
        return unknown("it cannot be told here", "see what `mount` says of it")
    return assess(mount)


def space(subject: Environment) -> Answer:
    """See whether there is room for logs, journals and registries."""
    if subject.root is None:
        return unknown("there is no root", "name one: --root DIR")
    place = existing_above(subject.root)
    seen = os.statvfs(place)
    free = seen.f_bavail * seen.f_frsize
    answers = [
        _enough(free, _LOW_SPACE, _NO_SPACE, f"{free >> 20} MiB are free"),
    ]
    told = f"{free >> 20} MiB"
    if seen.f_files:  # Some file systems have as many as they like.
        answers.append(
            _enough(seen.f_favail, _LOW_INODES, _NO_INODES, f"{seen.f_favail} inodes are free")
        )
        told += f" and {seen.f_favail} inodes"
    return worst_of(answers, well=f"{told} are free")


def _enough(free: int, low: int, none: int, found: str) -> Answer:
    remedy = "orchestrator-core gc, or free some on that file system"
    if free < none:
        return failed(f"only {found}", remedy)
    return warning(f"only {found}", remedy) if free < low else ok(found)


# --- what it does ---------------------------------------------------------------------------------


def operations(subject: Environment) -> Answer:
    """Try in the root, in a private directory, all that we need of a file system."""
    if subject.layout is None:
        return ok("not tried: there is no root yet")
    try:
        place = tempfile.mkdtemp(prefix=".doctor-", dir=subject.layout.root)
    except OSError as error:
        return failed(
            f"nothing can be made in {subject.layout.root}: {error.strerror}",
            "see: root, file system, space",
        )
    try:
        answers = [_tried(name, trial, Path(place)) for name, trial in _TRIALS.items()]
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return worst_of(answers, well=f"it does what we need: {', '.join(_TRIALS)}")


def _tried(name: str, trial: Callable[[Path], str], place: Path) -> Answer:
    try:
        trouble = trial(place)
    except (OSError, subprocess.SubprocessError) as error:
        trouble = str(error)
    return failed(f"{name}: {trouble}", _LOCAL) if trouble else ok(name)


_CONTENDER = """\
import fcntl, sys
try:
    fcntl.flock(open(sys.argv[1], "rb+"), fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    sys.exit(3)
"""


def _locks(place: Path) -> str:
    path = place / "locked"
    with path.open("wb+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if _contend(path) == 0:
            return "a lock does not keep another process out"
        fcntl.flock(file, fcntl.LOCK_UN)
        if _contend(path) != 0:
            return "a lock that was let go still keeps others out"
    return ""


def _contend(path: Path) -> int:
    command = [sys.executable, "-I", "-S", "-c", _CONTENDER, str(path)]
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "timeout": 5}
    return subprocess.run(command, stderr=subprocess.DEVNULL, check=False, **quiet).returncode  # type: ignore[call-overload,no-any-return]  # noqa: S603 - our own interpreter


def _rename(place: Path) -> str:
    old, new = place / "old", place / "new"
    old.write_bytes(b"old")
    new.write_bytes(b"new")
    with old.open("rb") as reader:
        os.rename(new, old)  # noqa: PTH104 - what is tried
        if old.read_bytes() != b"new" or new.exists():
            return "a file that was renamed over another is not in its place"
        if reader.read() != b"old":
            return "who was reading a file that was replaced does not see the old one any more"
    return ""


def _fsync(place: Path) -> str:
    for path, flags in ((place / "synced", os.O_RDWR | os.O_CREAT), (place, os.O_RDONLY)):
        fd = os.open(path, flags, 0o600)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    return ""


def _hard_links(place: Path) -> str:
    (place / "linked").touch()
    os.link(place / "linked", place / "linked too")
    same = os.path.samestat(os.stat(place / "linked"), os.stat(place / "linked too"))  # noqa: PTH116 - as above
    with contextlib.suppress(FileExistsError):
        os.link(place / "linked", place / "linked too")
        return "a name that is taken can be linked over"
    return "" if same else "two names of one file are not the same file"


def _fifos(place: Path) -> str:
    path = place / "fifo"
    os.mkfifo(path, 0o600)
    reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    writing = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    try:
        os.write(writing, b"news")
        return "" if os.read(reading, 10) == b"news" else "what is written does not arrive"
    finally:
        os.close(reading)
        os.close(writing)


def _sockets(place: Path) -> str:
    # By way of the directory's descriptor: the path itself may be too long for an address.
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
    return ""


def _modes(place: Path) -> str:
    path = place / "private"
    path.touch()
    path.chmod(0o600)
    mode = stat.S_IMODE(path.stat().st_mode)
    return "" if mode == 0o600 else f"a file made 0600 is {mode:04o}"  # noqa: PLR2004 - a mode


def _times(place: Path) -> str:
    (place / "now").touch()
    skew = (place / "now").stat().st_mtime - time.time()
    far = 5.0  # More than any clock's coarseness.
    return "" if abs(skew) < far else f"its clock and ours differ by {skew:+.0f} s"


_TRIALS: dict[str, Callable[[Path], str]] = {
    "locks": _locks,
    "rename": _rename,
    "fsync": _fsync,
    "hard links": _hard_links,
    "FIFOs": _fifos,
    "sockets": _sockets,
    "modes": _modes,
    "times": _times,
}
