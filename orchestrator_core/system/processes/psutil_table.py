"""
The table of processes where there is no ``/proc``: psutil's.

The only importer of psutil, and imported only there. A start time is in
microseconds since 1970, as near as the system tells.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import psutil  # type: ignore[import-untyped]  # its stubs are a package of their own

if TYPE_CHECKING:
    from collections.abc import Iterator

Fields = tuple[int, int, int, int, int, str, str | None]


def start_time(pid: int) -> int | None:
    """Return when the living process *pid* was started; None if there is none, or a zombie."""
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else _microseconds(process)
    except (psutil.Error, ValueError):
        return None


def cwd_of(pid: int) -> str:
    """
    Return the directory in which a process works.

    Raises:
        OSError: It has ended, or is hidden from us.
    """
    try:
        found: str = psutil.Process(pid).cwd()
    except (psutil.Error, ValueError) as error:
        raise ProcessLookupError(pid) from error
    return found


def rows(cookie_name: str) -> Iterator[Fields]:
    """Go through all living processes, newest first: pid, ppid, pgid, sid, start, name, cookie."""
    for process in sorted(psutil.process_iter(), key=lambda each: each.pid, reverse=True):
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
            pid = process.pid
            yield (
                pid,
                process.ppid(),
                os.getpgid(pid),
                os.getsid(pid),
                _microseconds(process),
                process.name(),
                _cookie(process, cookie_name),
            )
        except (psutil.Error, OSError):
            continue  # It has ended meanwhile, or is hidden from us.


def _microseconds(process: psutil.Process) -> int:
    return int(process.create_time() * 1_000_000)


def _cookie(process: psutil.Process, name: str) -> str | None:
    try:
        cookie: str | None = process.environ().get(name)
    except (psutil.Error, OSError):
        return None
    return cookie


def open_files() -> Iterator[tuple[int, int, str, str]]:
    """Go through the open files of all processes: pid, start, name, path."""
    for process in psutil.process_iter():
        try:
            started, name = _microseconds(process), process.name()
            for file in process.open_files():
                yield process.pid, started, name, file.path
        except (psutil.Error, OSError):
            continue  # As above.
