"""A directory of a saga's own, in which its steps keep what is to be gone with it."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator_core.exceptions import InvalidInput, StorageError

if TYPE_CHECKING:
    from orchestrator_core.saga import Context

_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")


def saga_dir(ctx: Context, directory: str | os.PathLike[str] | None) -> Path:
    """
    Return the saga's own directory: in *directory*, or where a deployment says.

    Named after the saga, so that no other has it. Touches nothing.

    Raises:
        InvalidInput: Neither says where.
    """
    if directory is not None:
        owner = "_".join(filter(None, ("oc", str(ctx.values.get("root_id", "")), ctx.saga_id)))
        return Path(directory).expanduser().absolute() / owner
    if "held" not in ctx.values:
        raise InvalidInput(
            "there is no place for it outside of a deployment", hint="say which: directory=…"
        )
    return Path(ctx.values["held"])


def check_name(name: str) -> None:
    """
    Refuse what can be neither a step's name nor a placeholder's; none at all is fine.

    Raises:
        InvalidInput: It is such a name.
    """
    if name and _NAME.fullmatch(name) is None:
        raise InvalidInput(
            f"{name!r:.60} cannot be a step's name",
            hint="use up to 40 of a-z 0-9 _ and start with a letter",
        )


def make_private(place: Path) -> None:
    """
    See that *place* is a directory of ours that nobody else can enter.

    Raises:
        StorageError: It is a symlink, a file, another user's, or open to others.
    """
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        place.mkdir(mode=0o700)
    status = place.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        raise StorageError(f"{place} is not a directory of ours", hint="move it away")
    if status.st_mode & 0o077:
        raise StorageError(f"{place} is open to others", hint=f"chmod 700 {place}")


def is_there(path: str | os.PathLike[str]) -> bool:
    """
    Tell whether anything has that name, be it a symlink that leads nowhere.

    Raises:
        OSError: It cannot be told; pathlib's ``exists`` may say no then, which is a guess.
    """
    return _status(path) is not None


def is_directory(path: str | os.PathLike[str]) -> bool:
    """
    Tell whether a directory has that name, and not a symlink to one.

    Raises:
        OSError: It cannot be told.
    """
    status = _status(path)
    return status is not None and stat.S_ISDIR(status.st_mode)


def _status(path: str | os.PathLike[str]) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def remove_if_empty(place: Path) -> None:
    """Remove *place*, unless something is left in it."""
    with contextlib.suppress(OSError):
        place.rmdir()


def remove_tree(path: Path) -> int:
    """
    Remove a directory with all that is in it, and return how many bytes its files had.

    No symlink is followed. What its owner has made read-only goes as well.

    Raises:
        OSError: Something in it is not ours to remove.
    """
    import shutil  # noqa: PLC0415 - for ends only

    freed = 0
    _make_writable(path)
    for here, directories, files in os.walk(path):
        for name in directories:
            _make_writable(Path(here, name))
        for name in files:
            with contextlib.suppress(FileNotFoundError):
                freed += Path(here, name).lstat().st_size
    shutil.rmtree(path)
    return freed


def _make_writable(directory: Path) -> None:
    """Let a directory be emptied: one that its owner cannot write to keeps what is in it."""
    mode = directory.lstat().st_mode
    if stat.S_ISDIR(mode) and mode & stat.S_IRWXU != stat.S_IRWXU:
        directory.chmod(stat.S_IRWXU)
