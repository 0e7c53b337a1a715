"""Unix sockets: whether a process listens there, which, and whether it can be seen from here."""

from __future__ import annotations

import os
import socket
import struct
import sys
from pathlib import Path

_ACCEPT_S = 2.0  #: A server that does not accept is asked, and reported, by other calls.


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
        return 0 if sys.platform != "linux" else _peer(client)


def _peer(client: socket.socket) -> int:
    """Return the pid of the listener; 0 if it is in a pid namespace that is not visible."""
    data = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid: int = struct.unpack("3i", data)[0]
    return pid


def is_out_of_sight(path: str | os.PathLike[str]) -> bool:
    """Return whether the process that listens at a socket is in another pid namespace."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(_ACCEPT_S)
        try:
            client.connect(os.fspath(path))
        except OSError:
            return False
        if sys.platform != "linux":
            return False
        pid = _peer(client)
        theirs, own = Path(f"/proc/{pid}/ns/pid"), Path("/proc/self/ns/pid")
        try:
            return pid == 0 or not theirs.samefile(own)
        except OSError:
            return False  # The system hides it, or it has ended.


def has_listener(path: Path) -> bool:
    """Return whether a process listens at a socket."""
    return listener(path) is not None
