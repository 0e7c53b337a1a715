"""
A soak test: many agents start and end, and only the archive grows.

A small part runs with the other tests. ``script/soak [CYCLES]`` runs all of it.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.tmux

CYCLES = int(os.environ.get("ORCHESTRATOR_SOAK_CYCLES", "24"))
WARM = max(8, CYCLES // 10)  #: Cycles until all permanent files exist.
TOP = Path(__file__).parents[2]
AGENTS_OF_A_TASK = 20
AT_WORK = 4
WATCH = ("sweep", "--watch", "--interval", "2")


class Measured:
    """The resources that must not grow."""

    def __init__(self, scene, sweeper):
        this = psutil.Process()
        self.own = {"descriptors": this.num_fds(), "threads": this.num_threads()}
        self.sweepers_fds, self.sweepers_threads = sweeper.num_fds(), sweeper.num_threads()
        self.sweepers_rss = sweeper.memory_info().rss
        self.sessions = scene.world.sessions()
        self.files = sorted(
            str(path.relative_to(scene.root))
            for path in scene.root.rglob("*")
            if path.is_file() and not _is_permanent(path.relative_to(scene.root))
        )


def _is_permanent(path):
    """Return whether a file belongs to the archive, or exists once for each task."""
    task = path.parts[0].startswith("TASK-")
    return "archive" in path.parts or "closed" in path.parts or (task and len(path.parts) == 2)


@contextlib.contextmanager
def resident_sweeper(root):
    """A resident sweeper in a separate process."""
    process = subprocess.Popen(
        [sys.executable, "-m", "orchestrator_core", "--root", root, *WATCH],
        env={**os.environ, "PYTHONPATH": str(TOP)},
        cwd="/",
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield psutil.Process(process.pid)
        assert process.poll() is None, "the sweeper has died"
    finally:
        process.terminate()
        process.wait()


def test_many_agents_leave_only_their_archive(scene):
    orch = scene.orchestrator()
    with resident_sweeper(scene.root) as sweeper:
        run_cycles(scene, orch, sweeper)
    assert [] == scene.world.leftovers()


def run_cycles(scene, orch, sweeper):
    resting = orch.deploy(orch.create_task("rests").id, scene.spec())  # keeps the server in use
    measured, task = None, None
    for cycle in range(CYCLES):
        if cycle % AGENTS_OF_A_TASK == 0:
            task = orch.create_task(f"soak {cycle}")
        agent = orch.deploy(task.id, scene.spec("/bin/sh", "-c", "echo done"))
        end = orch.wait(agent.id, timeout_s=60)
        assert ("completed", True) == (end.status, end.success), end
        if cycle == WARM:
            measured = Measured(scene, sweeper)

    after = Measured(scene, sweeper)
    assert after.own["descriptors"] <= measured.own["descriptors"] + AT_WORK
    assert after.own["threads"] <= measured.own["threads"] + AT_WORK
    # A job may run at either measurement, with a thread, a pipe and an open journal.
    assert after.sweepers_threads <= measured.sweepers_threads + AT_WORK
    assert after.sweepers_fds <= measured.sweepers_fds + AT_WORK
    assert measured.sessions == after.sessions
    assert measured.files == after.files
    assert after.sweepers_rss - measured.sweepers_rss < 4 << 20
    assert CYCLES == scene.world.totals()["ended"]["completed"]
    orch.terminate(resting.id)
