"""
The demonstration: real agents, real ends, and a count of what is left.

An adapter like any other: all that happens in it goes through the front door.
:mod:`.play` has its acts, :mod:`.agents` the agents' programs, :mod:`.leftovers`
counts what is held by asking the system, :mod:`.drawing` draws sagas.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator_core.exceptions import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator_core.cli.printing import Result


def demo(*, root: str | None, directory: str | None, keep: bool, quiet: bool) -> Result:
    """
    Play it below a root of its own, which is removed afterwards unless it is to be kept.

    *quiet* draws nothing, and leaves the result to speak. The exit code is 3 if
    anything is left.
    """
    from orchestrator_core.cli.demo.drawing import Paper  # noqa: PLC0415 - as above
    from orchestrator_core.cli.demo.play import Play  # noqa: PLC0415 - as above
    from orchestrator_core.cli.demo.repository import choose_directory  # noqa: PLC0415 - as above
    from orchestrator_core.cli.printing import Result  # noqa: PLC0415 - the agents import us too

    paper = Paper(io.StringIO() if quiet else None)
    with _place(root, keep=keep) as place:
        play = Play(place, choose_directory(directory, place), paper)
        try:
            data = play.run()
        finally:
            play.end_all()
            if not keep:
                _end_server(play.socket)
        if keep:
            paper.line(f"kept: orchestrator-core --root {play.root} ps --all")
    return Result(data, "", 0 if data["left"] == 0 else 3)


@contextlib.contextmanager
def _place(root: str | None, *, keep: bool) -> Iterator[Path]:
    """Yield a directory of the demonstration's own."""
    if root is None:
        place = Path(tempfile.mkdtemp(prefix="oc-demo-")).resolve()
    else:
        place = Path(root).absolute()
        if place.exists() and (not place.is_dir() or any(place.iterdir())):
            raise InvalidInput(f"{place} is not empty", hint="give --root a directory to be made")
        place.mkdir(parents=True, exist_ok=True)
    try:
        yield place
    finally:
        if not keep:
            shutil.rmtree(place, ignore_errors=True)


def _end_server(socket: str) -> None:
    """End the tmux server of the demonstration's root, which serves nobody else."""
    command = ["tmux", "-N", "-S", socket, "kill-server"]
    subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    Path(socket).unlink(missing_ok=True)


def socket_of(root: Path) -> str:
    """Return the address of a root's tmux server."""
    return str(json.loads((root / "root.json").read_bytes())["tmux_socket"])
