"""A program that ends during an asynchronous deployment leaves no agent, on real tmux."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.tmux

TOP = Path(__file__).parents[2]
LONG_S = 60

#: Each program writes a line when its deployment is about to commit, and is at its end then.
PROGRAM = """
import asyncio, os, sys, threading, time
from orchestrator_core import AgentSpec
from orchestrator_core.aio import AsyncOrchestrator
from orchestrator_core.saga import Observer

how, root = sys.argv[1:]
kept, here = [], threading.Event()

class Slow(Observer):
    def step_done(self, _saga, step, _ms):
        if step == "register_global":
            here.set()
            os.write(1, b"here\\n")
            time.sleep(0.3)  # The end of the program comes meanwhile.

async def deploy():
    async with AsyncOrchestrator(root, observer=Slow()) as orch:
        task = await orch.create_task("tried")
        spec = AgentSpec(type="a", prompt="p", command=["sleep", "1000"])
        await orch.deploy(task.id, spec)

async def main():
    kept.append(asyncio.create_task(deploy()))
    while not (here.is_set() and how in ("returns", "stopped")):
        await asyncio.sleep(0.01)

if how == "trio":
    import trio
    trio.run(deploy)
elif how == "stopped":
    asyncio.new_event_loop().run_until_complete(main())
else:
    asyncio.run(main())
"""


@pytest.mark.parametrize("how", ["returns", "stopped", "interrupted", "trio"])
def test_a_program_that_ends_during_a_deployment_leaves_nothing(scene, how):
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, how, str(scene.root)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(TOP)},
    )
    with program:
        assert b"here\n" == program.stdout.readline()
        if how in ("interrupted", "trio"):
            program.send_signal(signal.SIGINT)
        program.communicate(timeout=LONG_S)

    scene.orchestrator()
    assert [] == scene.world.leftovers()
    assert {"terminated"} >= {each["status"] for each in scene.world.records().values()}
