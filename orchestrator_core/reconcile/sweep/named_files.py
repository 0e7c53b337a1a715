"""
The files, run directories and cgroups that are named after agents, found by listing directories.

Each resource of an agent is named after the agent's id. A name is therefore one
proof of the agent. Other proofs come from other sources: see :mod:`.orphans`.
"""

from __future__ import annotations

import os
import re
import stat
from typing import TYPE_CHECKING

import attrs
import msgspec

from orchestrator_core.model import ids
from orchestrator_core.supervisor import run_lock

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator_core.model.layout import Layout

_ID = f"({ids.AGENT_ID})"

PROMPT_FILE, LOG, RUN_DIRECTORY = "prompt file", "log", "run directory"
_NAMES_ITS_AGENT = ("deploy log", "progress file", "findings file")  #: In its first JSON value.

#: By directory below a task: the names of agents' files in it, and what such a file is called.
_PATTERNS = {
    "": ((re.compile(f"agent_prompt_{_ID}\\.txt"), PROMPT_FILE),),
    "logs": (
        (re.compile(f"{_ID}_stream\\.jsonl"), LOG),
        (re.compile(f"deploy_{_ID}\\.json"), "deploy log"),
    ),
    "progress": ((re.compile(f"{_ID}_progress\\.jsonl"), "progress file"),),
    "findings": ((re.compile(f"{_ID}_findings\\.jsonl"), "findings file"),),
    "run": ((re.compile(_ID), RUN_DIRECTORY),),
}
_FIRST_BYTES = 65536  #: Read from a file for its first line.


@attrs.frozen(kw_only=True)
class NamedFile:
    """A file, a directory or a cgroup that is named after an agent."""

    agent_id: str
    task_id: str | None = None  #: None for a cgroup, which lies below no task's directory.
    what: str
    path: str
    names_agent: bool = False  #: Its content names the agent, too; set by :func:`inspect`.
    is_foreign: bool = False  #: Another user's file, or a link; set by :func:`inspect`.
    is_held: bool = False  #: A living supervisor holds the run directory; set by :func:`inspect`.


def scan_task(layout: Layout, task_id: str) -> list[NamedFile]:
    """
    Return what is named after agents below a task. A missing directory counts as empty.

    Raises:
        OSError: A directory cannot be listed.
    """
    task = layout.task(task_id)
    directories = {os.fspath(task / name): patterns for name, patterns in _PATTERNS.items()}
    return [
        NamedFile(agent_id=found[1], task_id=task_id, what=what, path=f"{directory}/{name}")
        for directory, patterns in directories.items()
        for name in _list(directory)
        for pattern, what in patterns
        if (found := pattern.fullmatch(name))
    ]


def scan_cgroups(parents: set[str], prefix: str) -> list[NamedFile]:
    """
    Return the cgroups below *parents* whose names begin with *prefix*.

    Raises:
        OSError: A directory cannot be listed.
    """
    return [
        NamedFile(agent_id=name.removeprefix(prefix), what="cgroup", path=f"{parent}/{name}")
        for parent in sorted(parents)
        for name in _list(parent)
        if name.startswith(prefix)
    ]


def quarantined(directory: Path, mark: str) -> list[str]:
    """Return the paths of the damaged files in *directory*: their names contain *mark*."""
    return [f"{directory}/{name}" for name in sorted(_list(os.fspath(directory))) if mark in name]


def _list(directory: str) -> list[str]:
    try:
        return os.listdir(directory)  # noqa: PTH208 - names are enough
    except FileNotFoundError:
        return []


def inspect(file: NamedFile) -> NamedFile:
    """Return *file* with what its owner and its content prove."""
    try:
        status = os.lstat(file.path)
    except OSError:
        return file  # The file is gone by now.
    foreign = status.st_uid != os.geteuid() or stat.S_ISLNK(status.st_mode)
    is_held = file.what == RUN_DIRECTORY and not foreign and not run_lock.is_free(file.path)
    return attrs.evolve(
        file, is_foreign=foreign, is_held=is_held, names_agent=_content_names_agent(file)
    )


def _content_names_agent(file: NamedFile) -> bool:
    if file.what not in _NAMES_ITS_AGENT:
        return False
    try:
        with open(file.path, "rb", buffering=0, opener=_open_unfollowed) as stream:
            data = stream.read(_FIRST_BYTES) or b""
        first = data if file.what == "deploy log" else data.partition(b"\n")[0]
        return bool(msgspec.json.decode(first, type=dict)["agent_id"] == file.agent_id)
    except (OSError, msgspec.DecodeError, KeyError):
        return False


def _open_unfollowed(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
