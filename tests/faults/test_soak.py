"""
A soak: agents come and go for a long time, and nothing grows but the archive.

A small share runs with the other tests. The whole of it: script/soak [CYCLES].
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
WARM = max(8, CYCLES // 10)  #: So many until all that is kept for good is there.
TOP = Path(__file__).parents[2]
AGENTS_OF_A_TASK = 20
AT_WORK = 4
WATCH = ("sweep", "--watch", "--interval", "2")


class Measured:
    """What must not grow."""

    def __init__(self, scene, sweeper):
        us = psutil.Process()
        self.ours = {"descriptors": us.num_fds(), "threads": us.num_threads()}
        self.sweepers_fds, self.sweepers_threads = sweeper.num_fds(), sweeper.num_threads()
        self.sweepers_rss = sweeper.memory_info().rss
        self.sessions = scene.world.sessions()
        self.files = sorted(
            str(path.relative_to(scene.root))
            for path in scene.root.rglob("*")
            if path.is_file() and not _kept_for_good(path.relative_to(scene.root))
        )


def _kept_for_good(path):
    """Tell whether a file is of the archive, or one that there is one of for each task."""
    task = path.parts[0].startswith("TASK-")
    return "archive" in path.parts or "closed" in path.parts or (task and len(path.parts) == 2)


@contextlib.contextmanager
def resident_sweeper(root):
    """A resident sweeper, in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "orchestrator_core", "--root", root, *WATCH],
        env={**os.environ, "PYTHONPATH": str(TOP)},
        cwd="/",
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield psutil.Process(process.pid)
        assert process.poll() is None, "the sweeper has died of it"
    finally:
        process.terminate()
        process.wait()


def test_many_agents_leave_only_their_archive(scene):
    orch = scene.orchestrator()
    with resident_sweeper(scene.root) as sweeper:
        come_and_go(scene, orch, sweeper)
    assert [] == scene.world.leftovers()


def come_and_go(scene, orch, sweeper):
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
    assert after.ours["descriptors"] <= measured.ours["descriptors"] + AT_WORK
    assert after.ours["threads"] <= measured.ours["threads"] + AT_WORK
    # It may be at something at either moment: a chore has a thread, a pipe, an open journal.
    assert after.sweepers_threads <= measured.sweepers_threads + AT_WORK
    assert after.sweepers_fds <= measured.sweepers_fds + AT_WORK
    assert measured.sessions == after.sessions
    assert measured.files == after.files
    assert after.sweepers_rss - measured.sweepers_rss < 4 << 20
    assert CYCLES == scene.world.totals()["ended"]["completed"]
    orch.terminate(resting.id)
