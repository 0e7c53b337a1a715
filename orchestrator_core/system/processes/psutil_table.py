"""
The table of processes where there is no ``/proc``, read by psutil.

This is the only importer of psutil, and is imported only there. Start times are in
microseconds since 1970, as precise as the system reports them.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import psutil  # type: ignore[import-untyped]  # its stubs are a separate package

if TYPE_CHECKING:
    from collections.abc import Iterator

Fields = tuple[int, int, int, int, int, str, str | None]


def start_time(pid: int) -> int | None:
    """Return the start time of the living process *pid*; None if it has ended or is a zombie."""
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else _start_time(process)
    except (psutil.Error, ValueError):
        return None


def cwd_of(pid: int) -> str:
    """
    Return the working directory of a process.

    Raises:
        OSError: The process has ended, or the system hides it.
    """
    try:
        return str(psutil.Process(pid).cwd())
    except (psutil.Error, ValueError) as error:
        raise ProcessLookupError(pid) from error


def command_line(pid: int) -> list[str]:
    """Return the arguments of a process; empty if it has ended, or the system hides them."""
    try:
        return list(psutil.Process(pid).cmdline())
    except (psutil.Error, ValueError):
        return []


def terminal_of(pid: int) -> tuple[str | None, int, str]:
    """Return a process's controlling terminal, and its parent's pid and name; empty if it ended."""
    try:
        process = psutil.Process(pid)
        parent = process.parent()
        if parent is None:
            return process.terminal(), 0, ""
        return process.terminal(), parent.pid, parent.name()
    except (psutil.Error, ValueError):
        return None, 0, ""


def rows(cookie_name: str) -> Iterator[Fields]:
    """Return all living processes, highest pid first: pid, ppid, pgid, sid, start, name, cookie."""
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
                _start_time(process),
                process.name(),
                _cookie(process, cookie_name),
            )
        except (psutil.Error, OSError):
            continue  # It has ended meanwhile, or the system hides it.


def _start_time(process: psutil.Process) -> int:
    return int(process.create_time() * 1_000_000)


def _cookie(process: psutil.Process, name: str) -> str | None:
    try:
        cookie: str | None = process.environ().get(name)
    except (psutil.Error, OSError):
        return None
    return cookie


def self_and_ancestors() -> set[int]:
    """Return the pids of this process and of its ancestors."""
    own = psutil.Process()
    return {own.pid, *(each.pid for each in own.parents())}


def texts() -> Iterator[tuple[int, int, str, bytes]]:
    """Return all living processes: pid, start time, name, arguments and environment as one text."""
    for process in psutil.process_iter():
        try:
            started, name = _start_time(process), process.name()
            words = [*process.cmdline(), *(f"{k}={v}" for k, v in process.environ().items())]
            yield process.pid, started, name, os.fsencode("\0".join(words))
        except (psutil.Error, OSError):
            continue  # As above.


def variable(pid: int, name: str) -> str | None:
    """Return a variable of a process's environment; None without it, or if the system hides it."""
    try:
        return _cookie(psutil.Process(pid), name)
    except (psutil.Error, ValueError):
        return None


def open_files() -> Iterator[tuple[int, int, str, str]]:
    """Return the open files of all processes: pid, start time, name, path."""
    for process in psutil.process_iter():
        try:
            started, name = _start_time(process), process.name()
            for file in process.open_files():
                yield process.pid, started, name, file.path
        except (psutil.Error, OSError):
            continue  # As above.
