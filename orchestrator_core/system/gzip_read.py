"""A reader of files that retention may have compressed."""

from __future__ import annotations

import gzip
import zlib
from typing import TYPE_CHECKING

from orchestrator_core.exceptions import StorageError
from orchestrator_core.system import durable

if TYPE_CHECKING:
    from pathlib import Path

GZ = ".gz"  #: The suffix that retention adds to the name of a compressed file.


def read_maybe_gzipped(path: Path) -> bytes:
    """
    Return the content of the file at *path*, or of its compressed copy if only that exists.

    Raises:
        FileNotFoundError: Neither file exists.
        StorageError: The file cannot be read, or its compressed copy is damaged.
    """
    try:
        return durable.read(path)
    except FileNotFoundError:
        compressed = path.with_name(path.name + GZ)
        data = durable.read(compressed)
    try:
        return gzip.decompress(data)
    except (EOFError, OSError, zlib.error) as error:
        raise StorageError(f"{compressed} is damaged: {error}", hint="try: gzip -dc") from error
