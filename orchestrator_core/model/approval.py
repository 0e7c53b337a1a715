"""
The user's own configuration directory, and the user's approvals of what a root's file names.

A root often lies where agents may write, and its ``orchestrator.toml`` can name commands and
modules that run outside of every agent. They count only if the user has approved exactly
them: a file named by their digest is then in the user's configuration directory.

The directory is ``$XDG_CONFIG_HOME/orchestrator-core``, or ``~/.config/orchestrator-core``.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator_core.exceptions import StorageError
from orchestrator_core.system import durable
from orchestrator_core.system.os_errors import storage_errors

if TYPE_CHECKING:
    from collections.abc import Mapping

_NAME = "orchestrator-core"
_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def user_directory() -> Path | None:
    """Return the user's configuration directory; None for a user without a home."""
    base = os.environ.get("XDG_CONFIG_HOME", "")
    if base.startswith("/"):
        return Path(base, _NAME)
    home = Path("~").expanduser()
    return home / ".config" / _NAME if home.is_absolute() else None


def is_approved(root: Path, sections: Mapping[str, Any]) -> bool:
    """Return whether the user has approved exactly these *sections* of a root's file."""
    directory = user_directory()
    if directory is None:
        return False
    path = directory / "approved" / _digest(root, sections)
    try:
        statuses = path.lstat(), path.parent.lstat()
    except OSError:
        return False
    return all(each.st_uid == os.geteuid() and not each.st_mode & _OTHERS for each in statuses)


def approve(root: Path, sections: Mapping[str, Any]) -> Path:
    """
    Approve *sections* of a root's file, durably; return the file that says so. Idempotent.

    Raises:
        StorageError: The user's configuration directory cannot be written, or there is none.
    """
    directory = user_directory()
    if directory is None:
        raise StorageError("this user has no home directory", hint="set XDG_CONFIG_HOME")
    with storage_errors("make", directory):
        directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    for each in (directory, directory / "approved"):
        durable.make_directory(each)
    path = directory / "approved" / _digest(root, sections)
    if not is_approved(root, sections):
        durable.replace(path, _document(root, sections) + b"\n")
    return path


def _digest(root: Path, sections: Mapping[str, Any]) -> str:
    return hashlib.sha256(_document(root, sections)).hexdigest()


def _document(root: Path, sections: Mapping[str, Any]) -> bytes:
    """Return root and sections as text that is the same for the same values."""
    values = {"root": os.fsdecode(os.path.realpath(root)), "approved": dict(sections)}
    return json.dumps(values, sort_keys=True, indent=2, default=str).encode()
