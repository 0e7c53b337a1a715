"""Unix sockets: whether a process listens there, and which."""

from __future__ import annotations

import os
import socket
import struct
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def listener(path: Path, timeout_s: float = 2.0) -> int | None:
    """
    Return the pid of the process that listens at a socket, even if it is stopped; None if none.

    0 means that a process listens, but its pid is unknown.
    """
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(timeout_s)
        try:
            client.connect(os.fspath(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        except OSError:  # A process listens, but does not accept.
            return 0
        if sys.platform != "linux":
            return 0
        data = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        pid: int = struct.unpack("3i", data)[0]
        return pid


def has_listener(path: Path) -> bool:
    """Return whether a process listens at a socket."""
    return listener(path) is not None
