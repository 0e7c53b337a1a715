"""
The cost of a deployment and its end on the fake, as a test pays it.

    python benchmarks/fake.py [--rounds N] [DIRECTORY]

Each round has a separate task, as a test has. The creation of the task and of the root is not
measured. The root is in memory where the system has such a place. The floor makes the same
system calls, in the same order, on files of the same directory.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import _figures
from _figures import Figure, median, timed

from orchestrator_core import AgentSpec
from orchestrator_core.testing import Scene
from orchestrator_core.testing.effects import CrashAt

if TYPE_CHECKING:
    from pathlib import Path

SPEC = AgentSpec(type="bench", prompt="Find the slow query.\n" * 20, command=["sleep", "1000"])


def figures(directory: str | None = None, rounds: int = 200) -> list[Figure]:  # noqa: ARG001 - as the others
    taken_ms, floor, ending = [], [], []
    with Scene() as scene:
        orch = scene.orchestrator()
        life(orch, orch.create_task("A benchmark").id)
        calls = calls_of(scene, orch)
        bare = Bare(scene.place / "bare")
        for _ in range(rounds + 5):
            task = orch.create_task("A benchmark").id
            taken_ms.append(timed(life, orch, task)[0])
            floor.append(timed(bare.replay, calls)[0])
            ending.append(timed(whole_test)[0])
    return [
        Figure(
            name="deploy and end on the fake",
            measured=median(taken_ms[5:]),
            floor=median(floor[5:]),
            at_most_units=8,
            note=f"fastest {min(taken_ms):.3g} ms; floor: its {len(calls)} system calls, bare",
        ),
        Figure(
            name="… with a separate root and task, and their removal",
            measured=median(ending[5:]),
            floor=median(floor[5:]),
        ),
    ]


def life(orch, task: str) -> None:
    orch.terminate(orch.deploy(task, SPEC).id, reason="benchmark")


def whole_test() -> None:
    with Scene() as scene:
        orch = scene.orchestrator()
        life(orch, orch.create_task("A benchmark").id)


def calls_of(scene: Scene, orch) -> list[str]:
    """Return the names of all calls that change the disk, in one deployment and its end."""
    task = orch.create_task("A benchmark").id
    with CrashAt(scene.terminal, -1) as no_crash:
        life(orch, task)
    known = {"open", "write", "pwrite", "fsync", "rename", "link", "unlink", "mkdir", "mkfifo"}
    return [call for name in no_crash.names if (call := name.split()[0]) in known]


class Bare:
    """The same calls, on files that mean nothing."""

    def __init__(self, place: Path) -> None:
        place.mkdir()
        self._file, self._other = str(place / "file"), str(place / "other")
        self._directory = str(place / "directory")
        self._fd = os.open(self._file, os.O_RDWR | os.O_CREAT)
        self._line = b"x" * 500

    def replay(self, calls: list[str]) -> None:
        for call in calls:
            getattr(self, call)()

    def open(self) -> None:
        os.close(os.open(self._other, os.O_RDWR | os.O_CREAT))

    def write(self) -> None:
        os.write(self._fd, self._line)

    def pwrite(self) -> None:
        os.pwrite(self._fd, self._line, 0)

    def fsync(self) -> None:
        os.fsync(self._fd)

    def rename(self) -> None:
        os.close(os.open(self._other, os.O_RDWR | os.O_CREAT))
        os.rename(self._other, self._file)  # noqa: PTH104 - bare

    def link(self) -> None:
        os.link(self._file, self._directory)
        os.unlink(self._directory)  # noqa: PTH108 - bare

    def unlink(self) -> None:
        os.close(os.open(self._other, os.O_RDWR | os.O_CREAT))
        os.unlink(self._other)  # noqa: PTH108 - bare

    def mkdir(self) -> None:
        os.mkdir(self._directory)  # noqa: PTH102 - bare
        os.rmdir(self._directory)  # noqa: PTH106 - bare

    def mkfifo(self) -> None:
        os.mkfifo(self._directory)
        os.unlink(self._directory)  # noqa: PTH108 - bare


if __name__ == "__main__":
    _figures.main(__doc__, figures)
