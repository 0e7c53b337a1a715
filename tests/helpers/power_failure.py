"""
A recorder of the calls to a disk, which rebuilds every state that a power failure may leave.

Fsynced data survives. Of each file's other bytes none, a part, zeros or all survive; of the
other changes of each file's names the first ones survive, any number of them. Changes to the
names of different files have no order among each other unless a directory was fsynced.
"""

import contextlib
import itertools
import os
import random
from pathlib import Path

import attrs

CALLS = ("pwrite", "write", "ftruncate", "fsync", "open", "link", "unlink", "rename", "fchmod")


@attrs.define
class File:
    """One inode: its present bytes, and the bytes that are certainly on the disk."""

    data: bytearray = attrs.field(factory=bytearray)
    synced: bytes = b""
    mode: int = 0o600


@attrs.frozen
class Naming:
    """One change of a name; None as the old or new path is a new or removed name."""

    inode: int
    old: str | None
    new: str | None


@attrs.define
class Disk:
    """The calls to the disk below one directory, in order."""

    place: Path
    files: dict = attrs.field(factory=dict)
    names: dict = attrs.field(factory=dict)  #: path → inode, certainly on the disk.
    pending: list = attrs.field(factory=list)
    acknowledged: list = attrs.field(factory=list)
    states: list = attrs.field(factory=list)  #: What a failure may leave after each call.
    _real: dict = attrs.field(factory=dict)

    @contextlib.contextmanager
    def recording(self):
        """Record the calls; all data that exists at the beginning is certainly on the disk."""
        for path in self.place.rglob("*"):
            if path.is_file():
                data = path.read_bytes()
                inode = path.stat().st_ino
                self.files[inode] = File(bytearray(data), data, path.stat().st_mode & 0o777)
                self.names[self._name(path)] = inode
        self._real = {name: getattr(os, name) for name in CALLS}
        for name in CALLS:
            setattr(os, name, lambda *args, _name=name, **kw: self._call(_name, *args, **kw))
        try:
            yield self
        finally:
            for name, real in self._real.items():
                setattr(os, name, real)

    def acknowledge(self, promise):
        """Note that the caller has got this promise; from now on it must hold."""
        self.acknowledged.append(promise)

    def _call(self, name, *args, **options):
        before = self._inode(args[0]) if name in ("link", "unlink", "rename") else None
        made = name == "open" and args[1] & os.O_CREAT and not os.path.lexists(args[0])
        result = self._real[name](*args, **options)
        if made and self._inside(args[0]):
            inode = os.fstat(result).st_ino
            self.files[inode] = File(mode=os.fstat(result).st_mode & 0o777)
            self._named(inode, None, args[0])
        elif name in ("link", "rename") and self._inside(args[0]):
            self._named(before, None if name == "link" else args[0], args[1])
        elif name == "unlink" and self._inside(args[0]):
            self._named(before, args[0], None)
        elif name in ("pwrite", "write", "ftruncate", "fsync", "fchmod"):
            self._written(name, args, result)
        else:
            return result
        self.states.append(self._state())
        return result

    def _written(self, name, args, result):
        status = os.fstat(args[0])
        if status.st_ino not in self.files:
            if name == "fsync":
                self._directory_synced(status.st_ino)
            return
        file = self.files[status.st_ino]
        if name == "pwrite":
            file.data[args[2] : args[2] + result] = bytes(args[1][:result])
        elif name == "ftruncate":
            del file.data[args[1] :]
        elif name == "fsync":
            file.synced = bytes(file.data)
        elif name == "fchmod":
            file.mode = args[1]

    def _directory_synced(self, inode):
        path = next(d for d in (self.place, self.place / "closed") if d.stat().st_ino == inode)
        of = self._name(path)
        keep = []
        for change in self.pending:
            if any(name is not None and _above(name) == of for name in (change.old, change.new)):
                _apply(self.names, change)
            else:
                keep.append(change)
        self.pending = keep

    def _named(self, inode, old, new):
        self.pending.append(
            Naming(inode, old and self._name(old), None if new is None else self._name(new))
        )

    def _name(self, path):
        relative = os.path.relpath(path, self.place)
        return "" if relative == "." else relative

    def _inside(self, path):
        return not os.path.relpath(path, self.place).startswith("..")

    def _inode(self, path):
        return os.lstat(path).st_ino if os.path.lexists(path) else None

    def _state(self):
        files = {i: (bytes(f.data), f.synced, f.mode) for i, f in self.files.items()}
        return files, dict(self.names), tuple(self.pending), tuple(self.acknowledged)


def _above(name):
    return name.rpartition("/")[0]


def _apply(names, change):
    if change.old is not None:
        names.pop(change.old, None)
    if change.new is not None:
        names[change.new] = change.inode


def outcomes(state, *, most, seed=0):
    """Yield the possible disks, ``{name: (bytes, mode)}``; a sample if there are many."""
    files, names, pending, _acknowledged = state
    inodes = list(dict.fromkeys(change.inode for change in pending))
    mine = [[change for change in pending if change.inode == inode] for inode in inodes]
    choices = list(itertools.product(*(range(len(changes) + 1) for changes in mine)))
    random.Random(seed).shuffle(choices)
    whole = tuple(len(changes) for changes in mine)
    for counts in dict.fromkeys([whole, tuple(0 for _ in mine), *choices[:most]]):
        left = dict(names)
        chosen = dict(zip(inodes, counts, strict=True))
        if not _all_fit(left, pending, chosen):
            continue
        for how in ("none", "all", "half", "zeros"):
            yield {
                name: (_left(*files[inode][:2], how), files[inode][2])
                for name, inode in left.items()
            }


def _all_fit(names, pending, chosen):
    """Apply the first changes of each file; return whether no two files had the same name."""
    seen = dict.fromkeys(chosen, 0)
    for change in pending:
        seen[change.inode] += 1
        if seen[change.inode] <= chosen[change.inode]:
            if names.get(change.new, change.inode) != change.inode and change.new is not None:
                return False
            _apply(names, change)
    return True


def _left(data, synced, how):
    if how == "none" or data == synced:
        return synced
    if how == "all":
        return data
    length = len(synced) + (len(data) - len(synced)) // 2 if len(data) > len(synced) else len(data)
    return data[:length] if how == "half" else synced + bytes(max(0, length - len(synced)))
