"""
Moves of files that never overwrite a file and never lose one.

The new name is durable before the old one goes. After a crash, the file has one name or both;
another move finishes the first.
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
    Move a file to *target*, or to the next free name, durably; return its new path.

    If ``a.log`` is taken, the file becomes ``a.1.log``, and so on. After a crash half-way, the
    file has both names, and another call finishes the move.

    Raises:
        FileNotFoundError: There is no *source*, or it has been moved already.
        StorageError: Refused. The file has its old name, its new one, or both.
    """
    [moved] = move_all_no_clobber([(source, target)])
    return moved


def move_all_no_clobber(moves: Iterable[tuple[StrPath, StrPath]]) -> list[str]:
    """Make several moves as :func:`move_no_clobber`, with one fsync for each directory."""
    moves = list(moves)
    moved = [link_no_clobber(source, target) for source, target in moves]
    # The new names must be durable before the old ones go: a power failure in between
    # could keep neither.
    for directory in set(map(durable.parent_of, moved)):
        durable.fsync_directory(directory)
    for source, _ in moves:
        durable.remove(source, durable=False)
    for directory in {durable.parent_of(source) for source, _ in moves}:
        durable.fsync_directory(directory)
    return moved


def link_no_clobber(source: StrPath, target: StrPath) -> str:
    """Give *source* a second name, *target* or the next free one; return that name."""
    with storage_errors("move", source, allow=(FileNotFoundError,)):
        status = os.lstat(source)
    with storage_errors(f"move {source} to", target):
        for name in numbered_names(target):
            try:
                os.link(source, name, follow_symlinks=False)
            except FileExistsError:
                if not os.path.samestat(status, os.lstat(name)):
                    continue
            return name
    raise AssertionError("unreachable: the names have no end")


def numbered_names(target: StrPath) -> Iterator[str]:
    """Return *target* and then, without end, the names for it if the ones before are taken."""
    yield os.fspath(target)
    stem, suffix = os.path.splitext(target)
    for number in itertools.count(1):
        yield f"{stem}.{number}{suffix}"
