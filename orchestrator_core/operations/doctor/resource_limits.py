"""Checks of resource limits: open files, file events, processes."""

from __future__ import annotations

import contextlib
import os
import re
import resource
from pathlib import Path

from orchestrator_core.operations.doctor.check import Check, Environment
from orchestrator_core.supervisor import procfs as proc
from orchestrator_core.system.processes import cgroups

_LOW_FILES, _NO_FILES = 1024, 128
_LOW_PROCESSES, _NO_PROCESSES = 200, 20
_LOW_WATCHES = 32
_PROCESSES_PER_AGENT = 4  #: At least: a supervisor, the agent, and two programs that it runs.


def open_files(_environment: Environment) -> Check:
    """Check how many files a process may open; children inherit the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return Check.ok("no limit")
    is_allowed = hard == resource.RLIM_INFINITY or hard >= 4096  # noqa: PLR2004 - in the remedy
    remedy = f"ulimit -n 4096{'' if is_allowed else ', once the hard limit is raised'}"
    return Check.by_threshold(
        soft, f"a process may open {soft} files", remedy, low=_LOW_FILES, none=_NO_FILES
    )


def file_events(_environment: Environment) -> Check:
    """Check how many inotify instances are left: each supervisor has one, and the sweeper."""
    limit = proc.read("/proc/sys/fs/inotify/max_user_instances").strip()
    if not limit.isdigit():
        return Check.ok("no such limit here")
    used = sum(_inotify_instances(pid) for pid in proc.pids() if _is_owned(pid))
    left = max(0, int(limit) - used)
    found = f"this user may have {int(limit)} inotify instances, and has {used}"
    remedy = "as root: sysctl fs.inotify.max_user_instances=1024 (to stay: in /etc/sysctl.d)"
    if not left:
        return Check.failed(f"{found}: panes stay empty, and a new sweeper gets no events", remedy)
    if left < _LOW_WATCHES:
        return Check.warning(f"{found}: enough for {left} more agents", remedy)
    return Check.ok(found)


def _inotify_instances(pid: int) -> int:
    count = 0
    with contextlib.suppress(OSError):  # The process has ended.
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):  # The descriptor is closed.
                count += os.readlink(link) == "anon_inode:inotify"  # noqa: PTH115 - no file
    return count


def processes(_environment: Environment) -> Check:
    """Check how many processes this user and this control group may have."""
    checks = [_user_processes(), _group_processes()]
    return Check.worst_of(checks, well="; ".join(check.found for check in checks))


def _user_processes() -> Check:
    soft, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    if soft == resource.RLIM_INFINITY or os.geteuid() == 0:
        return Check.ok("no limit for this user")
    used = sum(_threads(pid) for pid in proc.pids() if _is_owned(pid))
    return _compare_headroom("this user", soft, used, "ulimit -u")


def _is_owned(pid: int) -> bool:
    try:
        return os.stat(f"/proc/{pid}").st_uid == os.getuid()  # noqa: PTH116 - no pathlib for a pid
    except OSError:
        return False


def _threads(pid: int) -> int:
    """Return how many threads a process has. The limit counts threads."""
    found = re.search(rb"^Threads:\s*(\d+)", proc.read(f"/proc/{pid}/status"), re.MULTILINE)
    return int(found[1]) if found else 0


def _group_processes() -> Check:
    own = cgroups.current_cgroup()
    limit = proc.read(f"{own}/pids.max").strip() if own is not None else b""
    if not limit.isdigit():
        return Check.ok("no limit for this control group")
    used = int(proc.read(f"{own}/pids.current").strip() or 0)
    how = f"echo max > {own}/pids.max, or systemd's TasksMax="
    return _compare_headroom("this control group", int(limit), used, how)


def _compare_headroom(owner: str, limit: int, used: int, how: str) -> Check:
    left = limit - used
    found = f"{owner} may have {limit} processes, and has {used}"
    if left < _LOW_PROCESSES:
        found += f": room for {max(0, left) // _PROCESSES_PER_AGENT} more agents"
    remedy = f"end some, or raise the limit ({how})"
    return Check.by_threshold(left, found, remedy, low=_LOW_PROCESSES, none=_NO_PROCESSES)
