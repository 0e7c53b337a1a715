"""Checks of how much we may have: open files, processes."""

from __future__ import annotations

import os
import re
import resource

from orchestrator_core.doctor.answers import Answer, Subject, failed, ok, together, warning
from orchestrator_core.processes import placing
from orchestrator_core.supervisor import proc

_FEW_FILES, _NO_FILES = 1024, 128
_FEW_PROCESSES, _NO_PROCESSES = 200, 20
_AGENT = 4  #: Processes that an agent has at least: a supervisor, itself, and what it runs.


def open_files(_subject: Subject) -> Answer:
    """See how many files a process of ours may open: what we start inherits that."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return ok("no limit")
    found = f"a process of ours may open {soft} files"
    remedy = f"ulimit -n 4096{'' if _allows(hard, 4096) else ', once the hard limit is raised'}"
    if soft < _NO_FILES:
        return failed(found, remedy)
    return warning(found, remedy) if soft < _FEW_FILES else ok(found)


def _allows(limit: int, number: int) -> bool:
    return limit == resource.RLIM_INFINITY or limit >= number


def processes(_subject: Subject) -> Answer:
    """See how many processes there may be, ours and those of our control group."""
    answers = [_of_user(), _of_group()]
    return together(answers, well="; ".join(answer.found for answer in answers))


def _of_user() -> Answer:
    soft, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    if soft == resource.RLIM_INFINITY or os.geteuid() == 0:
        return ok("no limit for our user")
    used = sum(_threads(pid) for pid in proc.pids() if _is_ours(pid))
    return _left(soft - used, f"our user may have {soft} processes, and has {used}", "ulimit -u")


def _is_ours(pid: int) -> bool:
    try:
        return os.stat(f"/proc/{pid}").st_uid == os.getuid()  # noqa: PTH116 - no pathlib for a pid
    except OSError:
        return False


def _threads(pid: int) -> int:
    """Return how many threads a process has: each counts."""
    told = re.search(rb"^Threads:\s*(\d+)", proc.read(f"/proc/{pid}/status"), re.MULTILINE)
    return int(told[1]) if told else 0


def _of_group() -> Answer:
    own = placing.own_directory()
    limit = proc.read(f"{own}/pids.max").strip() if own is not None else b""
    if not limit.isdigit():
        return ok("none for our control group")
    used = int(proc.read(f"{own}/pids.current").strip() or 0)
    found = f"our control group may have {int(limit)} processes, and has {used}"
    return _left(int(limit) - used, found, f"echo max > {own}/pids.max, or systemd's TasksMax=")


def _left(left: int, found: str, how: str) -> Answer:
    remedy = f"end some, or raise the limit ({how})"
    if left < _NO_PROCESSES:
        return failed(f"{found}: room for {max(0, left) // _AGENT} agents more", remedy)
    if left < _FEW_PROCESSES:
        return warning(f"{found}: room for {left // _AGENT} agents more", remedy)
    return ok(found)
