"""Paths: their resolution, the same on every Python, and the limit of a socket's path."""

from __future__ import annotations

import errno
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

SOCKET_PATH_MAX = 103 if sys.platform == "darwin" else 107  #: Bytes in the path of a Unix socket.


def resolve(path: Path) -> Path:
    """
    Return *path* as an absolute path without symlinks; its last parts need not exist.

    Raises:
        OSError: The symlinks of the path form a loop; `pathlib` raises this on some Pythons only.
        ValueError: The path has a NUL in it.
    """
    try:
        return path.resolve(strict=True)
    except RuntimeError as error:  # The error for a loop before Python 3.13.
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path)) from error
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise
        return path.resolve()
