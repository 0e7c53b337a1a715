"""
The floor of a registry update: the plain durable replace, nothing else.

Write a temporary file, fsync it, rename it over the old one, fsync the directory.
No lock, no JSON, no counters; one process, in a loop.
"""

from __future__ import annotations

import os
import time


def replace(path: str, data: bytes) -> None:
    temporary = path + ".tmp"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    os.write(fd, data)
    os.fsync(fd)
    os.close(fd)
    os.replace(temporary, path)  # noqa: PTH105 - the floor is bare
    directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)  # noqa: PTH120 - the same
    os.fsync(directory)
    os.close(directory)


def seconds(path: str, data: bytes, rounds: int) -> list[float]:
    """Return how long each of *rounds* replaces took."""
    taken = []
    for _ in range(rounds):
        begun = time.perf_counter()
        replace(path, data)
        taken.append(time.perf_counter() - begun)
    return taken
