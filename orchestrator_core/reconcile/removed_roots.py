"""
Agents whose root was removed, found by their marks from any other root of the same user.

A supervisor notices the removal and ends its agent. What is left is an agent whose supervisor
was killed, is stopped, or is of an earlier release. A process of such an agent bears the
cookie of a root that no longer exists, and has the agent's removed log open.

A process can bear a cookie that is not its own. So an agent counts only if no process with its
cookie leads to an existing root, by its environment or by a file that it has open.
"""

from __future__ import annotations

import functools
import re
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from orchestrator_core.exceptions import OrchestratorError
from orchestrator_core.model.environment import ENV_ROOT
from orchestrator_core.model.layout import Layout, read_root_file
from orchestrator_core.system.processes.open_files import open_names
from orchestrator_core.system.processes.table import variable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from orchestrator_core.system.processes.protocol import TaggedProcess

ANY_COOKIE = "oc_"  #: The beginning of every cookie, of any root.
_COOKIE = re.compile(r"oc_(?P<root>[0-9a-f]{8})_(?P<agent>[A-Za-z0-9][A-Za-z0-9_-]*)")
_DELETED = " (deleted)"


@attrs.frozen
class RemovedAgent:
    """An agent whose root was removed, and its living processes."""

    cookie: str
    agent_id: str
    root: str  #: Where the root was.
    processes: tuple[TaggedProcess, ...]


def find_removed(tagged: Iterable[TaggedProcess]) -> tuple[RemovedAgent, ...]:
    """Return the agents among the processes *tagged* whose roots were removed."""
    groups: dict[str, list[TaggedProcess]] = defaultdict(list)
    for process in tagged:
        groups[process.cookie].append(process)
    may_exist = functools.cache(_may_exist)  # Many agents have one root.
    found = (_removed_agent(*group, may_exist) for group in groups.items())
    return tuple(agent for agent in found if agent is not None)


def _removed_agent(
    cookie: str, processes: list[TaggedProcess], may_exist: Callable[[Path, str], bool]
) -> RemovedAgent | None:
    parts = _COOKIE.fullmatch(cookie)
    if parts is None:
        return None
    log, journal = f"{parts['agent']}_stream.jsonl", f"{parts['agent']}.jsonl"
    root = None
    for process in processes:
        named = variable(process.identity.pid, ENV_ROOT)
        if named is not None and may_exist(Path(named), parts["root"]):
            return None
        for name in open_names(process.identity.pid):
            path = Path(name.removesuffix(_DELETED))
            if path.name not in {log, journal}:
                continue
            if not name.endswith(_DELETED):
                return None
            if path.name == log and path.parent.name == "logs":
                root = path.parents[2]
    if root is None or may_exist(root, parts["root"]):
        return None
    return RemovedAgent(cookie, parts["agent"], str(root), tuple(processes))


def _may_exist(root: Path, root_id: str) -> bool:
    """Return whether the root with this id is at *root*, or that is unknown."""
    try:
        found = read_root_file(Layout(root))
    except (OrchestratorError, OSError, ValueError):
        return True
    return found is not None and found.root_id == root_id
