"""
The choice of the path of a root's tmux socket, at the root's first use.

A user that can replace the socket decides which server this user's tmux client talks to, and a
tmux server can make its client write files. So the socket lies where no other user can replace
any part of its path: in the root, or else in a private directory of this user.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from orchestrator_core.exceptions import StorageError
from orchestrator_core.system import durable, paths
from orchestrator_core.system.os_errors import storage_errors
from orchestrator_core.system.paths import SOCKET_PATH_MAX

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def choose_socket(root: Path, root_id: str) -> Path:
    """
    Return a path that works as the address of the root's tmux socket.

    Raises:
        StorageError: No place can hold the socket; the message has the reason of each.
    """
    failures: list[str] = []
    for socket in _candidates(root, root_id):
        try:
            if socket.parent != root:
                make_private(socket.parent)
            _try_socket(socket)
        except (StorageError, OSError) as error:
            failures.append(f"{socket}: {error}")
        else:
            return socket
    raise StorageError(
        "no place for the tmux socket: " + "; ".join(failures),
        hint="use a root with a shorter path, on a local file system",
    )


def _candidates(root: Path, root_id: str) -> Iterator[Path]:
    yield root / "tmux.sock"
    # The runtime directory last: it is emptied at the last logout while agents run on.
    for directory in paths.user_directories():
        yield directory / f"{root_id}.sock"


def _try_socket(path: Path) -> None:
    """Check that the path is short and safe enough, and its file system supports sockets."""
    if len(os.fsencode(path)) > SOCKET_PATH_MAX:
        raise StorageError(f"longer than the {SOCKET_PATH_MAX} bytes of a socket's address")
    if reason := paths.why_replaceable(path.parent):
        raise StorageError(reason)
    import socket  # noqa: PLC0415 - for a root's first use only

    trial = path.with_name(path.name[:-1])  # no longer than the real one
    durable.remove(trial, durable=False)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.fspath(trial))
    durable.remove(trial, durable=False)


def make_private(directory: Path) -> None:
    """
    Create *directory*, which is outside the root, unless it exists; check that it is private.

    Raises:
        StorageError: It is a symlink, another user's, or open to others.
    """
    durable.make_directory(directory)
    with storage_errors("inspect", directory):
        mode = os.lstat(directory).st_mode
    if mode & 0o077:
        raise StorageError(f"{directory} is open to others", hint=f"chmod 700 {directory}")
