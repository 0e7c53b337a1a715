"""
All processes of the machine, in one pass.

Two tables with the same rows: ``/proc``, read here, and psutil where there is
no ``/proc``. On Linux the tests hold one against the other.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import attrs

from orchestrator_core.processes.identity import boot_id
from orchestrator_core.processes.port import Identity
from orchestrator_core.supervisor import proc

if TYPE_CHECKING:
    from collections.abc import Iterator

COOKIE_NAME = "ORCHESTRATOR_COOKIE"


@attrs.frozen
class Row:
    """One living process."""

    pid: int
    ppid: int
    pgid: int
    sid: int
    started: int
    comm: str
    cookie: str | None  #: Of its environment; None if it has none, or we may not look.

    @property
    def identity(self) -> Identity:
        """Who it is."""
        return Identity(boot_id(), self.pid, self.started)


def rows() -> Iterator[Row]:
    """Go through all living processes, the newest numbers first. A zombie is not one."""
    return proc_rows() if sys.platform == "linux" else psutil_rows()


def row(pid: int) -> Row | None:
    """Return the living process *pid*, or None."""
    if sys.platform == "linux":
        return _proc_row(pid)
    return next((found for found in psutil_rows() if found.pid == pid), None)


def proc_rows() -> Iterator[Row]:
    """Go through ``/proc``."""
    for pid in proc.pids():
        found = _proc_row(pid)
        if found is not None:
            yield found


def _proc_row(pid: int) -> Row | None:
    seen = proc.stat(pid)
    if seen is None or seen.is_dead:
        return None
    cookie = _cookie_in(proc.read(f"/proc/{pid}/environ"))
    return Row(pid, seen.ppid, seen.pgid, seen.sid, seen.started, seen.comm, cookie)


def _cookie_in(environ: bytes) -> str | None:
    mark = f"\0{COOKIE_NAME}=".encode()
    _, found, rest = (b"\0" + environ).partition(mark)
    return os.fsdecode(rest.partition(b"\0")[0]) if found else None


def psutil_rows() -> Iterator[Row]:
    """Go through what psutil shows."""
    from orchestrator_core.processes import by_psutil  # noqa: PLC0415 - only without /proc

    return (Row(*fields) for fields in by_psutil.fields(COOKIE_NAME))
