"""
Names that lead to agents: files, run directories and cgroups, found by one listing each.

Everything an agent holds is named after its id, so a name alone says whose it is
meant to be. It proves nothing more: see the other proofs in :mod:`.compare`.
"""

from __future__ import annotations

import os
import re
import stat
from typing import TYPE_CHECKING

import attrs
import msgspec

from orchestrator_core.model import ids

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from orchestrator_core.model.layout import Layout

_ID = f"({ids.AGENT_ID})"

#: Below a task: where to look, what a name there looks like, and what is called so.
_PLACES = (
    ("", re.compile(f"agent_prompt_{_ID}\\.txt"), "prompt file"),
    ("logs", re.compile(f"{_ID}_stream\\.jsonl"), "log"),
    ("logs", re.compile(f"deploy_{_ID}\\.json"), "deploy log"),
    ("progress", re.compile(f"{_ID}_progress\\.jsonl"), "progress file"),
    ("findings", re.compile(f"{_ID}_findings\\.jsonl"), "findings file"),
    ("run", re.compile(_ID), "run directory"),
)
_DIRECTORIES = tuple(dict.fromkeys(place for place, _, _ in _PLACES))
_KEPT_ASIDE = re.compile(r"AGENT_REGISTRY\.json\.damaged-.+")
_FIRST = 65536  #: Bytes of a file in which its first line is looked for.


@attrs.frozen
class Trace:
    """Something that is named after an agent."""

    agent_id: str
    task_id: str | None  #: None for a cgroup, which belongs to no task's directory.
    what: str
    path: str


@attrs.frozen
class Found:
    """What a task's directories hold, by name."""

    traces: tuple[Trace, ...]
    kept_aside: tuple[str, ...]  #: Registries that were damaged.


def of_task(layout: Layout, task_id: str) -> Found:
    """
    List what is named after agents below a task; a directory that is missing is empty.

    Raises:
        OSError: One cannot be listed.
    """
    task = os.fspath(layout.task(task_id))
    traces: list[Trace] = []
    kept_aside: list[str] = []
    for directory in _DIRECTORIES:
        place = f"{task}/{directory}" if directory else task
        for name in _listed(place):
            trace = _named(directory, name)
            if trace is not None:
                traces.append(Trace(trace[0], task_id, trace[1], f"{place}/{name}"))
            elif not directory and _KEPT_ASIDE.fullmatch(name):
                kept_aside.append(f"{place}/{name}")
    return Found(tuple(traces), tuple(kept_aside))


def _named(directory: str, name: str) -> tuple[str, str] | None:
    for place, pattern, what in _PLACES:
        if place == directory and (found := pattern.fullmatch(name)):
            return found[1], what
    return None


def cgroups(parents: set[str], prefix: str) -> list[Trace]:
    """
    List the cgroups below *parents* whose names begin with *prefix*.

    Raises:
        OSError: A directory cannot be listed.
    """
    return [
        Trace(name.removeprefix(prefix), None, "cgroup", f"{parent}/{name}")
        for parent in sorted(parents)
        for name in _listed(parent)
        if name.startswith(prefix)
    ]


def _listed(directory: str) -> list[str]:
    try:
        return os.listdir(directory)  # noqa: PTH208 - names are enough
    except FileNotFoundError:
        return []


def damaged_below(directory: Path, mark: str) -> Iterator[str]:
    """Return the paths of what was kept aside in a directory: names with *mark* in them."""
    for name in sorted(_listed(os.fspath(directory))):
        if mark in name:
            yield f"{directory}/{name}"


def says_whose(trace: Trace) -> bool:
    """Tell whether what is in a file names the agent that its name names."""
    if trace.what not in ("deploy log", "progress file", "findings file"):
        return False
    try:
        fd = os.open(trace.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        data = os.read(fd, _FIRST)
    except OSError:
        return False
    finally:
        os.close(fd)
    first = data if trace.what == "deploy log" else data.partition(b"\n")[0]
    try:
        return bool(msgspec.json.decode(first, type=dict)["agent_id"] == trace.agent_id)
    except (msgspec.DecodeError, KeyError):
        return False


def is_foreign(trace: Trace) -> bool:
    """Tell whether it is another user's, or a symbolic link, which leads to who knows what."""
    try:
        status = os.lstat(trace.path)
    except OSError:
        return False  # It is gone by now.
    return status.st_uid != os.geteuid() or stat.S_ISLNK(status.st_mode)
