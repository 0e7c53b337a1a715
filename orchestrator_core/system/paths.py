"""Where a path leads, said alike on every Python."""

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
    Return where a path leads, absolute; what is not there may be part of it.

    Raises:
        OSError: Its symlinks lead round in a circle, which `pathlib` says on some Pythons only.
        ValueError: It has a NUL in it.
    """
    try:
        return path.resolve(strict=True)
    except RuntimeError as error:  # What it says of a circle before Python 3.13.
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path)) from error
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise
        return path.resolve()
