"""
Count what is held below a root, by looking at the system.

The library is not asked: tmux is, and the kernel, and the directory, and the
documents are read as the plain JSON they are. So the count is a witness, and
not an echo of what the library believes.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

_ENDED = {"completed", "failed", "error", "terminated"}
_CGROUPS = Path("/sys/fs/cgroup")


def count(root: Path) -> dict[str, int]:
    """Return how many there are of each kind of thing that an agent can hold."""
    fixed = _document(root / "root.json")
    mark = f"oc_{fixed.get('root_id')}_"
    documents = [_document(path) for path in root.glob("TASK-*/AGENT_REGISTRY.json")]
    return {
        "tmux sessions": len(sessions(str(fixed.get("tmux_socket")))),
        "processes": len(processes(mark)),
        "cgroups": _cgroups(mark),
        "prompt files": _files(root, "TASK-*/agent_prompt_*"),
        "logs not archived": _files(root, "TASK-*/logs/*"),
        "run directories": _files(root, "TASK-*/run/*"),
        "open journals": _files(root, "sagas/*.jsonl"),
        "active task records": sum(map(_active, documents)),
        "active global records": len(
            _document(root / "registry" / "GLOBAL_REGISTRY.json").get("agents", ())
        ),
        "unfinished files": _files(root, ".new-*") + _files(root, "**/*.tmp"),
    }


def sessions(socket: str) -> list[str]:
    """Return the names of a tmux server's sessions; it is not started by asking."""
    asked = subprocess.run(
        ["tmux", "-N", "-u", "-S", socket, "list-sessions", "-F", "#{session_name}"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,  # no server, no sessions
    )
    return asked.stdout.split()


def processes(mark: str) -> list[int]:
    """Return the living processes whose environment or cgroup has *mark* in it."""
    if not Path("/proc/self/stat").exists():
        return _processes_by_psutil(mark)
    return [
        int(entry.name)
        for entry in os.scandir("/proc")
        if entry.name.isdecimal() and _is_marked(entry.path, mark.encode())
    ]


def _is_marked(process: str, mark: bytes) -> bool:
    try:
        stat = Path(f"{process}/stat").read_bytes()
        told = [Path(f"{process}/{name}").read_bytes() for name in ("environ", "cgroup")]
    except OSError:
        return False  # It has just ended, or is another user's.
    is_dead = stat[stat.rindex(b")") + 2 :][:1] in b"ZX"
    is_server = b"(tmux: server)" in stat
    return any(mark in each for each in told) and not (is_dead or is_server)


def _processes_by_psutil(mark: str) -> list[int]:
    import psutil  # type: ignore[import-untyped]  # noqa: PLC0415 - where there is no /proc

    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if any(mark in value for value in process.environ().values()):
                found.append(process.pid)
    return found


def _cgroups(mark: str) -> int:
    if sys.platform != "linux":
        return 0
    names = (name for _, directories, _ in os.walk(_CGROUPS) for name in directories)
    return sum(name.startswith(mark) for name in names)


def _files(root: Path, pattern: str) -> int:
    return sum(1 for _ in root.glob(pattern))


def _active(document: dict[str, Any]) -> int:
    return sum(record.get("status") not in _ENDED for record in document.get("agents", ()))


def _document(path: Path) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    return document
