"""
File events of some directories, by inotify or kqueue.

An event has only the place of a change. If an event is lost (the system has no more
watches, or the queue has overflowed), the listener checks everything instead, and later.
"""

from __future__ import annotations

import os
import select
import struct
import sys
from typing import TYPE_CHECKING

import attrs

from orchestrator_core.supervisor import platform

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
_MASK = _IN_CLOSE_WRITE | _IN_MOVED_FROM | _IN_MOVED_TO | _IN_MOVE_SELF | _IN_ONLYDIR


@attrs.frozen
class DirectoryEvent:
    """A change in a directory."""

    directory: Path
    name: str | None  #: The changed file; None if it may be any.
    watch_lost: bool = False  #: The directory is gone or renamed: a new watch is needed.


class DirectoryEvents:
    """
    The changes in some directories, until closed. *fd* is readable if there are any.

    Raises:
        OSError: A directory does not exist, or the system has no more watches.
    """

    def __init__(self, *directories: Path) -> None:
        self._directories = {str(directory): directory for directory in directories}
        self._open()

    if sys.platform == "linux":

        def _open(self) -> None:
            self.fd, self._numbers = platform.inotify(dict.fromkeys(self._directories, _MASK))

        def read(self) -> list[DirectoryEvent]:
            """Return the changes since the last call. Never wait."""
            events: dict[DirectoryEvent, None] = {}  # In order, without duplicates.
            try:
                data = os.read(self.fd, 1 << 16)
            except BlockingIOError:
                return []
            for number, mask, name in _parse(data):
                if mask & _IN_Q_OVERFLOW:
                    all_changed = (DirectoryEvent(d, None) for d in self._directories.values())
                    events |= dict.fromkeys(all_changed)
                elif number in self._numbers:
                    directory = self._directories[self._numbers[number]]
                    lost = bool(mask & _LOST)
                    events[DirectoryEvent(directory, None if lost else name, lost)] = None
            return list(events)

        def close(self) -> None:
            """Stop watching."""
            os.close(self.fd)

    else:  # Not tested on this project's machines, therefore short.

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

        def read(self) -> list[DirectoryEvent]:
            """Return the changes since the last call. Never wait."""
            lost = select.KQ_NOTE_DELETE | select.KQ_NOTE_RENAME
            return [
                DirectoryEvent(
                    self._directories[self._fds[event.ident]], None, bool(event.fflags & lost)
                )
                for event in self._queue.control(None, 8, 0)
            ]

        def close(self) -> None:
            """Stop watching."""
            self._queue.close()
            for fd in self._fds:
                os.close(fd)


def _parse(data: bytes) -> Iterator[tuple[int, int, str]]:
    at = 0
    while at < len(data):
        number, mask, _, length = _EVENT.unpack_from(data, at)
        at += _EVENT.size
        yield number, mask, os.fsdecode(data[at : at + length].rstrip(b"\0"))
        at += length
