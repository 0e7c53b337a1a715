"""
Moving files, so that none is ever overwritten and none is ever nowhere.

What is moved has its new name, durably, before the old one goes. Killed at any
instant, a file has one name or both; moving it again finishes.
"""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING

from orchestrator_core.system import durable
from orchestrator_core.system.os_errors import storage_errors

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from orchestrator_core.system.durable import StrPath


def move_no_clobber(source: StrPath, target: StrPath) -> str:
    """
    Move a file to *target*, durably, or to the next free name; return where it is.

    Nothing is ever overwritten: ``a.log`` taken, it becomes ``a.1.log``, and so
    on. Killed half-way, the file has both names; moving again finishes.

    Raises:
        FileNotFoundError: There is no *source*: never was, or it is moved already.
        StorageError: Refused. The file is under its old name, its new one, or both.
    """
    [place] = move_all_no_clobber([(source, target)])
    return place


def move_all_no_clobber(moves: Iterable[tuple[StrPath, StrPath]]) -> list[str]:
    """As :func:`move_no_clobber`, for many: each directory is seen to the disk once."""
    moves = list(moves)
    places = [link_no_clobber(source, target) for source, target in moves]
    # The new names must be durable before the old ones go, or a power
    # failure in between could keep neither.
    for directory in set(map(durable.parent_of, places)):
        durable.fsync_directory(directory)
    for source, _ in moves:
        durable.remove(source, durable=False)
    for directory in {durable.parent_of(source) for source, _ in moves}:
        durable.fsync_directory(directory)
    return places


def link_no_clobber(source: StrPath, target: StrPath) -> str:
    """Give *source* a second name: *target*, or the next free one; the same one if it has it."""
    with storage_errors("move", source, allow=(FileNotFoundError,)):
        inode = os.lstat(source)
    with storage_errors(f"move {source} to", target):
        for place in numbered_names(target):
            try:
                os.link(source, place, follow_symlinks=False)
            except FileExistsError:
                if not os.path.samestat(inode, os.lstat(place)):
                    continue
            return place
    raise AssertionError("unreachable: there is always another name")


def numbered_names(target: StrPath) -> Iterator[str]:
    """Return *target*, and then the names it may have if it is taken, without end."""
    yield os.fspath(target)
    stem, suffix = os.path.splitext(target)
    for number in itertools.count(1):
        yield f"{stem}.{number}{suffix}"
