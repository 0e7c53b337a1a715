"""Checks of how much we may have: open files, file events, processes."""

from __future__ import annotations

import os
import re
import resource

from orchestrator_core.operations.doctor.check import (
    Answer,
    Environment,
    failed,
    ok,
    warning,
    worst_of,
)
from orchestrator_core.supervisor import procfs as proc
from orchestrator_core.system.processes import cgroups

_FEW_FILES, _NO_FILES = 1024, 128
_FEW_PROCESSES, _NO_PROCESSES = 200, 20
_FEW_WATCHES = 32
_AGENT = 4  #: Processes that an agent has at least: a supervisor, itself, and what it runs.


def open_files(_subject: Environment) -> Answer:
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


def file_events(_subject: Environment) -> Answer:
    """See how many more may hear of changed files: each supervisor does, and the sweeper."""
    limit = proc.read("/proc/sys/fs/inotify/max_user_instances").strip()
    if not limit.isdigit():
        return ok("no such limit here")
    used = sum(_instances(pid) for pid in proc.pids() if _is_ours(pid))
    left = max(0, int(limit) - used)
    found = f"our user may have {int(limit)} inotify instances, and has {used}"
    remedy = "as root: sysctl fs.inotify.max_user_instances=1024 (to stay: in /etc/sysctl.d)"
    if not left:
        told = "panes stay empty, and a new sweeper hears of nothing"
        return failed(f"{found}: {told}", remedy)
    return (
        warning(f"{found}: enough for {left} agents more", remedy)
        if left < _FEW_WATCHES
        else ok(found)
    )


def _instances(pid: int) -> int:
    """Return how many inotify instances a process has."""
    place = f"/proc/{pid}/fd"
    try:
        names = os.listdir(place)  # noqa: PTH208 - names are enough
    except OSError:
        return 0
    return sum(_leads_to(f"{place}/{name}") == "anon_inode:inotify" for name in names)


def _leads_to(link: str) -> str:
    try:
        return os.readlink(link)  # noqa: PTH115 - there is no file of that name
    except OSError:
        return ""


def processes(_subject: Environment) -> Answer:
    """See how many processes there may be, ours and those of our control group."""
    answers = [_of_user(), _of_group()]
    return worst_of(answers, well="; ".join(answer.found for answer in answers))


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
    own = cgroups.own_directory()
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
