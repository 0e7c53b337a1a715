"""The bearer token of an HTTP server, in a file that only its owner can read."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from typing import TYPE_CHECKING

from orchestrator_core.exceptions import InvalidInput, StorageError
from orchestrator_core.system import durable
from orchestrator_core.system.os_errors import storage_errors

if TYPE_CHECKING:
    from pathlib import Path

_MIN_LENGTH = 16  #: Characters.


_held: list[int] = []  #: Descriptors whose locks this process holds as long as it lives.


def replace_token(path: Path) -> str:
    """
    Write a new token into the file at *path*, 0600, and return it.

    A token that another program got while no server ran opens nothing afterwards. The file is
    locked as long as this process lives.

    Raises:
        InvalidInput: Another server uses the file.
        StorageError: It cannot be written.
    """
    token = secrets.token_urlsafe(32)
    fd = durable.open_private(path, os.O_RDWR | os.O_CREAT)
    try:
        with storage_errors("write", path, allow=(BlockingIOError,)):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.fchmod(fd, 0o600)
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{token}\n".encode(), 0)
            os.fsync(fd)
    except BlockingIOError:
        os.close(fd)
        raise InvalidInput(
            f"another server that runs uses {path}",
            hint="a second server of one root needs its own --token-file",
        ) from None
    except BaseException:
        os.close(fd)
        raise
    _held.append(fd)
    return token


def read_or_create_token(path: Path) -> str:
    """
    Return the token in a file; a missing file is created, 0600, with a new token.

    Concurrent callers that create the file all return the same token.

    Raises:
        StorageError: Other users can read the file, it contains no token, or it cannot be
            read or created.
    """
    try:
        return _read(path)
    except FileNotFoundError:
        _create(path)
        return _read(path)


def _read(path: Path) -> str:
    token = durable.read(path).decode("ascii", errors="replace").strip()
    with storage_errors("inspect", path):
        mode = path.stat().st_mode
    if mode & 0o077:
        raise StorageError(
            f"{path} contains a token, and other users can read it", hint=f"chmod 600 {path}"
        )
    if len(token) < _MIN_LENGTH or not token.isascii() or not token.isprintable() or " " in token:
        raise StorageError(
            f"{path} contains no token: {_MIN_LENGTH} or more ASCII characters without spaces",
            hint=f"remove {path}; the server then creates one",
        )
    return token


def _create(path: Path) -> None:
    complete = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    with storage_errors("create", path):
        durable.create(complete, secrets.token_urlsafe(32).encode() + b"\n")
    try:
        # A link appears complete, and never replaces a file: the first caller's token wins.
        with (
            contextlib.suppress(FileExistsError),
            storage_errors("create", path, allow=(FileExistsError,)),
        ):
            os.link(complete, path)
    finally:
        durable.remove(complete)
