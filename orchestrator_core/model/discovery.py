"""
The search for a root: which directory it is, and what named it. The search touches nothing.

Other users may put any name into a directory above the working directory. So a root is
searched only among directories of this user, and a symlink of another user is not followed.
A root that an argument or a variable names is a decision of the caller: its symlinks are
followed.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator_core.exceptions import StorageError
from orchestrator_core.system import paths

if TYPE_CHECKING:
    from collections.abc import Mapping

DIRECTORY_NAME = ".agent-workspace"
ENVIRONMENT = ("ORCHESTRATOR_ROOT", "CLAUDE_ORCHESTRATOR_WORKSPACE")


def find_root(
    root: str | os.PathLike[str] | None = None,
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> tuple[Path, str]:
    """
    Return the root's directory and what named it. Touches nothing.

    In this order: the argument, the environment, the nearest ``.agent-workspace`` of this
    user in the working directory or above it, a new one in the working directory.

    Raises:
        StorageError: The path leads nowhere, or another user has taken the name of a new one.
    """
    env = os.environ if env is None else env
    if root is not None and os.fspath(root):
        return _resolve(_anchor(cwd, root)), "the argument"
    for name in ENVIRONMENT:
        if env.get(name):
            return _resolve(_anchor(cwd, env[name])), name
    cwd = _anchor(cwd, "")
    for directory in (cwd, *cwd.parents):
        if _is_own_directory(directory / DIRECTORY_NAME):
            return _resolve(directory / DIRECTORY_NAME), f"the nearest above {cwd}"
    return _new_root(cwd / DIRECTORY_NAME), "the working directory"


def _is_own_directory(path: Path) -> bool:
    """Return whether *path* is a directory of this user, or a symlink of this user to one."""
    user = os.geteuid()
    try:
        if path.lstat().st_uid != user:
            return False
        status = path.stat()
    except (OSError, ValueError):
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == user


def _new_root(path: Path) -> Path:
    """
    Return the resolved path of a root that may not exist yet.

    Raises:
        StorageError: Another user has taken the name.
    """
    try:
        owner = path.lstat().st_uid
    except OSError:
        owner = os.geteuid()  # Nothing is there; the opening reports any other error.
    if owner != os.geteuid():
        raise StorageError(
            f"{path} belongs to user {owner}, and is not used",
            hint="name a root of your own: --root DIR, or ORCHESTRATOR_ROOT",
        )
    return _resolve(path)


def _anchor(cwd: Path | None, path: str | os.PathLike[str]) -> Path:
    """Return a path that is relative to *cwd* or to the working directory, anchored there."""
    if cwd is None and not Path(path).is_absolute():
        try:
            cwd = Path.cwd()
        except FileNotFoundError as error:
            raise StorageError(
                "the working directory is gone", hint="cd to one that exists, or name the root"
            ) from error
    return Path(path) if cwd is None else cwd / path


def _resolve(path: Path) -> Path:
    """Follow the symlinks on the way to a root. Inside a root, none is followed."""
    try:
        return paths.resolve(path)
    except (OSError, ValueError) as error:
        raise StorageError(f"{path} leads nowhere: {error}", hint="is the root right?") from error
