"""The asynchronous orchestrator on real tmux: a cancelled call ends soon and leaves nothing."""

from __future__ import annotations

import threading
import time

import anyio
import anyio.to_thread
import pytest

from orchestrator_core.aio import AsyncOrchestrator
from orchestrator_core.saga import Observer

pytestmark = [
    pytest.mark.tmux,
    pytest.mark.parametrize("backend", ["asyncio", "trio"]),
]

LONG_S = 60
SOON_S = 20


class Notifies(Observer):
    """Notifies an event loop of a commit."""

    def __init__(self):
        self.committed = threading.Event()

    def saga_committed(self, _saga_id):
        self.committed.set()

    async def until_committed(self):
        assert await anyio.to_thread.run_sync(self.committed.wait, SOON_S)


def run(backend, story):
    async def bounded():
        with anyio.fail_after(3 * SOON_S):
            return await story()

    return anyio.run(bounded, backend=backend)


def test_agents_are_deployed_and_awaited_concurrently(backend, scene):
    """Three agents run at once; one task waits for each."""
    ends = []

    async def fan_out():
        async with AsyncOrchestrator(scene.root) as orch:
            task = await orch.create_task("tried")

            async def one(number):
                spec = scene.spec("sh", "-c", f"exit {number}")
                agent = await orch.deploy(task.id, spec)
                ends.append(await orch.wait(agent.id, timeout_s=SOON_S))

            async with anyio.create_task_group() as tasks:
                for number in range(3):
                    tasks.start_soon(one, number)

    run(backend, fan_out)

    assert [0, 1, 2] == sorted(end.exit_code for end in ends)
    assert [] == scene.world.leftovers()


def test_a_deployment_cancelled_in_its_grace_ends_long_before_the_grace(backend, scene):
    """The deployer would watch the running agent for another minute; the agent is ended instead."""
    observer = Notifies()
    begun = time.monotonic()

    async def deploy():
        orch = AsyncOrchestrator.wrapping(scene.orchestrator(observer=observer))
        task = await orch.create_task("tried")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: orch.deploy(task.id, scene.spec(), grace_s=LONG_S))
            await observer.until_committed()
            tasks.cancel_scope.cancel()

    run(backend, deploy)

    assert time.monotonic() - begun < SOON_S
    [record] = scene.world.records().values()
    assert ("terminated", "cancelled") == (
        record["status"],
        record["auto_cleanup_result"]["reason"],
    )
    assert [] == scene.world.leftovers()


def test_a_cancelled_wait_leaves_no_waiting_thread(backend, scene):
    """The agent lives on, and the cancelled wait returns before its timeout."""
    orch = scene.orchestrator()
    agent = orch.deploy(orch.create_task("tried").id, scene.spec())
    watched, left = threading.Event(), threading.Event()
    watch = orch._context.processes.watch

    def seen(process, **how):
        watched.set()
        try:
            return watch(process, **how)
        finally:
            left.set()

    orch._context.processes.watch = seen

    async def wait():
        twin = AsyncOrchestrator.wrapping(orch)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: twin.wait(agent.id, timeout_s=LONG_S))
            assert await anyio.to_thread.run_sync(watched.wait, SOON_S)
            tasks.cancel_scope.cancel()

    begun = time.monotonic()
    run(backend, wait)

    assert left.is_set()
    assert time.monotonic() - begun < SOON_S
    assert scene.world.of_agent(agent.id)
    orch.terminate(agent.id)
    assert [] == scene.world.leftovers()
