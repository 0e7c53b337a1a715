"""The directory of the command ``orchestrator-core``, for the PATH of agents."""

from __future__ import annotations

import functools
import os
import sys

COMMAND = "orchestrator-core"


def with_own_directory(path: str) -> str:
    """
    Return a PATH that finds the command: *path*, with the command's directory at its end.

    The deployer may run in an environment that was not activated, as under cron or an MCP
    client. An agent reports with the command all the same, and no other program is hidden.
    """
    own = _own_directory()
    if not own or own in path.split(os.pathsep):
        return path
    return f"{path or os.defpath}{os.pathsep}{own}"


@functools.cache
def _own_directory() -> str:
    """Return the directory of this installation's command; "" if there is none."""
    return next(filter(_has_command, _candidates()), "")


def _candidates() -> list[str]:
    import sysconfig  # noqa: PLC0415 - for the first deployment only

    beside = os.path.dirname(sys.executable or "")  # noqa: PTH120 - "" is possible
    return [beside, sysconfig.get_path("scripts"), f"{sysconfig.get_config_var('userbase')}/bin"]


def _has_command(directory: str) -> bool:
    return os.path.isabs(directory) and os.access(f"{directory}/{COMMAND}", os.X_OK)  # noqa: PTH117 - as above
