"""
The agent around this process, found by its ancestors.

A tool may start its MCP servers with little more than HOME and PATH: the variables that name
the agent are lost. The processes above still have them in their environment.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from orchestrator_core.model.environment import ENV_AGENT, ENV_COOKIE, ENV_ROOT, ENV_TASK

if TYPE_CHECKING:
    from collections.abc import Iterator

_NAMES = (ENV_ROOT, ENV_AGENT, ENV_TASK, ENV_COOKIE)
_MOST_ANCESTORS = 64


def adopt_own_agent(root: str | None) -> bool:
    """
    Set the variables that name the agent around this process, if they are missing.

    They are those of the nearest ancestor that has an agent's cookie. *root* is the root that
    the caller named, if any: an agent of another root is not adopted. Returns whether
    this process has the variables of an agent afterwards.
    """
    if ENV_AGENT in os.environ:
        return True
    for variables in _ancestors():
        if all(variables.get(name) for name in _NAMES):
            if root is not None and not _is_same(root, variables[ENV_ROOT]):
                return False
            os.environ.update({name: variables[name] for name in _NAMES})
            return True
    return False


def _is_same(root: str, other: str) -> bool:
    try:
        return os.path.samefile(root, other)  # noqa: PTH121 - two strings
    except OSError:
        return False


def _ancestors() -> Iterator[dict[str, str]]:
    """Yield the environments of the processes above, the nearest first; {} for a hidden one."""
    if sys.platform == "linux":
        yield from _ancestors_on_linux()
        return
    import psutil  # type: ignore[import-untyped] # noqa: PLC0415 - slow to import

    for process in psutil.Process().parents()[:_MOST_ANCESTORS]:
        try:
            yield process.environ()
        except (psutil.Error, OSError):
            yield {}


def _ancestors_on_linux() -> Iterator[dict[str, str]]:
    from orchestrator_core.supervisor import procfs  # noqa: PLC0415 - Linux only

    pid = os.getppid()
    for _ in range(_MOST_ANCESTORS):
        if pid <= 1:
            return
        stat = procfs.stat(pid)
        if stat is None:
            return
        pairs = (os.fsdecode(each).partition("=") for each in procfs.environ(pid).split(b"\0"))
        yield {name: value for name, _, value in pairs if name in _NAMES}
        pid = stat.ppid
