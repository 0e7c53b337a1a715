"""
A count of the resources below a root, by asking the system.

The source is tmux, the kernel and the file system, not the library, so that the count checks
what the library reports.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from typing import TYPE_CHECKING, Any

import psutil  # type: ignore[import-untyped]

if TYPE_CHECKING:
    from pathlib import Path

_FILES = {
    "prompt files": "TASK-*/agent_prompt_*",
    "logs not archived": "TASK-*/logs/*",
    "run directories": "TASK-*/run/*",
    "open journals": "sagas/*.jsonl",
}
_ENDED = {"completed", "failed", "error", "terminated"}


def count(root: Path) -> dict[str, int]:
    """Return the number of resources of each kind that an agent can hold."""
    prefix = f"oc_{_json(root / 'root.json')['root_id']}_"
    tmux = ["tmux", "-N", "-S", socket_of(root), "list-sessions"]  # -N: starts no server.
    sessions = subprocess.run(tmux, capture_output=True, check=False).stdout.splitlines()
    cgroups = [name for _, names, _ in os.walk("/sys/fs/cgroup") for name in names]
    registries = map(_json, root.glob("TASK-*/AGENT_REGISTRY.json"))
    records = [record for registry in registries for record in registry["agents"]]
    return {
        "tmux sessions": len(sessions),
        "processes": len(processes(prefix)),
        "cgroups": sum(name.startswith(prefix) for name in cgroups),
        **{kind: len([*root.glob(pattern)]) for kind, pattern in _FILES.items()},
        "active task records": sum(record.get("status") not in _ENDED for record in records),
        "active global records": len(_json(root / "registry" / "GLOBAL_REGISTRY.json")["agents"]),
        "unfinished files": len([*root.glob(".new-*"), *root.glob("**/*.tmp")]),
    }


def socket_of(root: Path) -> str:
    """Return the socket of a root's tmux server."""
    return str(_json(root / "root.json")["tmux_socket"])


def processes(mark: str) -> list[int]:
    """Return the processes that have *mark* in their environment, without the tmux server."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):  # It has just ended, or is another user's.
            values = process.environ().values()
            if any(mark in each for each in values) and not process.name().startswith("tmux"):
                found.append(process.pid)
    return found


def _json(path: Path) -> Any:  # noqa: ANN401 - JSON
    return json.loads(path.read_bytes())
