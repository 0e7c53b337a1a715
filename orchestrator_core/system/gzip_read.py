"""Read what is kept of an agent, compressed or not."""

from __future__ import annotations

import gzip
import zlib
from typing import TYPE_CHECKING

from orchestrator_core.exceptions import StorageError
from orchestrator_core.system import durable

if TYPE_CHECKING:
    from pathlib import Path

GZ = ".gz"  #: Behind the name of what retention has compressed.


def read_maybe_gzipped(path: Path) -> bytes:
    """
    Return the content of a file that may have been compressed since its name was written down.

    Raises:
        FileNotFoundError: There is neither.
        StorageError: It cannot be read, or what was compressed is damaged.
    """
    try:
        return durable.read(path)
    except FileNotFoundError:
        packed = path.with_name(path.name + GZ)
        data = durable.read(packed)
    try:
        return gzip.decompress(data)
    except (EOFError, OSError, zlib.error) as error:
        raise StorageError(f"{packed} is damaged: {error}", hint="try: gzip -dc") from error
