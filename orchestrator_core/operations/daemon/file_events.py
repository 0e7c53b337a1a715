"""
File events of a root: a journal was let go of, or moved; a registry was replaced.

They only ever say *where to look*. Whoever misses one (a system without watches
to give, a queue that ran over) looks everywhere instead, and later.
"""

from __future__ import annotations

import os
import select
import struct
import sys
from typing import TYPE_CHECKING, Self

import attrs

from orchestrator_core.supervisor import platform as system

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_EVENT = struct.Struct("iIII")

_IN_CLOSE_WRITE = 0x8
_IN_MOVED_FROM = 0x40
_IN_MOVED_TO = 0x80
_IN_MOVE_SELF = 0x800
_IN_ONLYDIR = 0x1000000
_IN_Q_OVERFLOW = 0x4000
_IN_IGNORED = 0x8000  #: The directory is gone, and its watch with it.
_LOST = _IN_IGNORED | _IN_MOVE_SELF
_ASKED = _IN_CLOSE_WRITE | _IN_MOVED_FROM | _IN_MOVED_TO | _IN_MOVE_SELF | _IN_ONLYDIR


@attrs.frozen
class Change:
    """Something has changed in a directory."""

    directory: Path
    name: str | None  #: What; None if it may be anything.
    is_last: bool = False  #: It is gone, or has another name: watch anew.


class Changes:
    """
    What changes in some directories, until closed.

    Raises:
        OSError: A directory is not there, or the system has no more watches to give.
    """

    def __init__(self, *directories: Path) -> None:
        self._directories = {str(directory): directory for directory in directories}
        self._open()

    if sys.platform == "linux":

        def _open(self) -> None:
            watches = dict.fromkeys(self._directories, _ASKED)
            self.fd, self._numbers = system.inotify(watches)

        def take(self) -> list[Change]:
            """Return what has changed since the last time. Never waits."""
            changes: dict[Change, None] = {}  # In order, each once.
            for number, mask, name in _parse(self._read()):
                if mask & _IN_Q_OVERFLOW:
                    changes |= dict.fromkeys(Change(each, None) for each in self._all())
                elif number in self._numbers:
                    directory = self._directories[self._numbers[number]]
                    lost = bool(mask & _LOST)
                    changes[Change(directory, None if lost else name, lost)] = None
            return list(changes)

        def _read(self) -> bytes:
            try:
                return os.read(self.fd, 1 << 16)
            except BlockingIOError:
                return b""

        def close(self) -> None:
            """Watch no more."""
            os.close(self.fd)

    else:  # Nobody could try these lines here: they are few.

        def _open(self) -> None:
            self._queue = select.kqueue()
            self.fd = self._queue.fileno()
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
            self._fds = {os.open(name, flags): name for name in self._directories}
            for fd in self._fds:
                change = select.kevent(
                    fd,
                    filter=select.KQ_FILTER_VNODE,
                    flags=select.KQ_EV_ADD | select.KQ_EV_CLEAR,
                    fflags=select.KQ_NOTE_WRITE | select.KQ_NOTE_DELETE | select.KQ_NOTE_RENAME,
                )
                self._queue.control([change], 0)

        def take(self) -> list[Change]:
            """Return what has changed since the last time. Never waits."""
            gone = select.KQ_NOTE_DELETE | select.KQ_NOTE_RENAME
            return [
                Change(self._directories[self._fds[event.ident]], None, bool(event.fflags & gone))
                for event in self._queue.control(None, 8, 0)
            ]

        def close(self) -> None:
            """Watch no more."""
            self._queue.close()
            for fd in self._fds:
                os.close(fd)

    def _all(self) -> list[Path]:
        return list(self._directories.values())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _parse(data: bytes) -> Iterator[tuple[int, int, str]]:
    at = 0
    while at < len(data):
        number, mask, _, length = _EVENT.unpack_from(data, at)
        at += _EVENT.size
        yield number, mask, os.fsdecode(data[at : at + length].rstrip(b"\0"))
        at += length
