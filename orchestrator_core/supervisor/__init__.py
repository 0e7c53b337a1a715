"""
The supervisor: the program of an agent's tmux pane, and the parent of all its processes.

It has three tasks:

- *Gate*: nothing of the agent runs before the deployment is committed.
- *Containment*: nothing of the agent runs after its end.
- *Exit record*: how the agent ended is on disk before any other process asks.

At the end the supervisor becomes, by exec, the unwinder of its agent.

This package is a separate program: it starts with ``python -I -S`` in a few milliseconds,
so it imports only small parts of the standard library. Start with :mod:`.launch` (its
configuration), :mod:`.gate`, then :mod:`.main_loop`.
"""

from __future__ import annotations

import posix
import sys


def main(launch_path: str) -> None:
    """Run a supervisor. Does not return: the process exits, or becomes the unwinder."""
    from orchestrator_core.supervisor import (  # noqa: PLC0415 - other importers of this package need none
        gate,
        launch,
        main_loop,
        signals,
    )

    signals.reset_handlers()
    try:
        config = launch.read(launch_path)
    except FileNotFoundError:
        sys.exit(0)  # The deployment was undone before this process started.
    journal = gate.wait_for_commit(config.journal)
    if journal is None or not _delete_launch_file(launch_path):
        sys.exit(0)
    sys.exit(main_loop.supervise(config, journal))


def _delete_launch_file(launch_path: str) -> bool:
    """Delete the file, which contains secrets of the environment. False if there is none."""
    try:
        posix.unlink(launch_path)
    except FileNotFoundError:
        return False  # An undo has begun.
    return True
