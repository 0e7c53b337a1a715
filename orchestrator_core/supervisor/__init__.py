"""
The supervisor: the pane's own process, and everything above an agent.

It is three things at once. The *gate*: nothing of the agent runs before the
deployment is committed. The *containment*: nothing of it runs on after its end.
The *witness*: how it ended is on disk before anybody asks. When all is over it
becomes, by exec, the unwinder of its own agent.

This package is a program of its own: it starts with ``python -I -S`` in a few
milliseconds, so it imports nothing but small parts of the standard library.
Read :mod:`.launch` (what it is config), :mod:`.gate`, then :mod:`.life`.
"""

from __future__ import annotations

import os
import sys

_BOOTSTRAP = (
    "import sys; sys.path.append(sys.argv[1]); "
    "from orchestrator_core.supervisor import main; main(sys.argv[2])"
)


def command(launch_path: str) -> list[str]:
    """
    Return the argv that supervises what the file *launch_path* describes.

    It names no secret and no agent: a command line can be read by everybody.
    """
    package = os.path.dirname(os.path.abspath(__file__))
    home = os.path.dirname(os.path.dirname(package))
    return [sys.executable, "-I", "-S", "-c", _BOOTSTRAP, home, launch_path]


def main(launch_path: str) -> None:
    """Live the supervisor's whole main_loop. Does not return: it exits, or becomes the heir."""
    from orchestrator_core.supervisor import (  # noqa: PLC0415 - command() needs none of it
        gate,
        launch,
        main_loop,
        signals,
    )

    signals.reset_handlers()
    try:
        config = launch.read(launch_path)
    except FileNotFoundError:
        sys.exit(0)  # The deployment was undone before we came to be.
    journal = gate.wait_for_commit(config.journal)
    if journal is None or not _delete_launch_file(launch_path):
        sys.exit(0)
    sys.exit(main_loop.supervise(config, journal))


def _delete_launch_file(launch_path: str) -> bool:
    """Remove the file: it holds the agent's environment, secrets included. False if it is gone."""
    try:
        os.unlink(launch_path)
    except FileNotFoundError:
        return False  # Somebody has begun to clear up.
    return True
