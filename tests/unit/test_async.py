"""The asynchronous twin is in step with the orchestrator, and a cancelled call leaves nothing."""

from __future__ import annotations

import asyncio
import inspect
import os
import select
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest

from orchestrator_core import AgentSpec, DeploymentError, Orchestrator, WaitTimeout
from orchestrator_core.aio import AsyncOrchestrator
from orchestrator_core.exceptions import InvalidInput, TerminalError
from orchestrator_core.saga import Observer
from orchestrator_core.system.processes.protocol import WatchResult
from orchestrator_core.testing import Exits, Scene, leaks

TOP = Path(__file__).parents[2]
SPEC = AgentSpec(type="a", prompt="do it", command=["sleep", "1000"])
LONG_S = 20

both = pytest.mark.parametrize("backend", ["asyncio", "trio"])


@pytest.fixture
def scene():
    with Scene() as made:
        yield made


def run(backend, story):
    """Run *story*, and no longer than any of these takes."""

    async def bounded():
        with anyio.fail_after(LONG_S):
            return await story()

    return anyio.run(bounded, backend=backend)


# --- in step -------------------------------------------------------------------------------


def public(cls):
    return {name: value for name, value in vars(cls).items() if not name.startswith("_")}


def test_every_method_has_a_twin_with_its_signature_and_its_words():
    methods = {name for name, value in public(Orchestrator).items() if inspect.isfunction(value)}
    twins = public(AsyncOrchestrator)

    assert methods == {n for n, value in twins.items() if inspect.iscoroutinefunction(value)}
    for name in methods:
        original = getattr(Orchestrator, name)
        assert inspect.signature(original) == inspect.signature(twins[name]), name
        assert original.__doc__ == twins[name].__doc__, name


def test_it_is_opened_with_the_same_parameters():
    assert inspect.signature(Orchestrator) == inspect.signature(AsyncOrchestrator)


def test_what_an_orchestrator_tells_of_itself_its_twin_tells(scene):
    orch = scene.orchestrator()
    twin = AsyncOrchestrator.wrapping(orch)

    told = {name for name in (*vars(orch), *public(Orchestrator)) if not name.startswith("_")}

    assert set() == {name for name in told if not hasattr(twin, name)}
    assert (orch.root, orch.chosen_by) == (twin.root, twin.chosen_by)
    assert (orch.recovery, orch.damaged) == (twin.recovery, twin.damaged)


def test_without_anyio_the_error_names_the_extra():
    code = (
        "import sys; sys.modules['anyio'] = None\n"
        "from orchestrator_core import OrchestratorError\n"
        "try: import orchestrator_core.aio\n"
        "except OrchestratorError as error: print(error.hint)"
    )

    said = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(TOP)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    assert "pip install 'orchestrator-core[async]'\n" == said


# --- a life ----------------------------------------------------------------------------------


@both
def test_a_whole_life(backend, scene):
    scene.terminal.agents["sleep"] = Exits(0, after_s=60)

    async def life():
        async with AsyncOrchestrator(scene.root, terminal=scene.terminal) as orch:
            task = await orch.create_task("a task", key="one")
            agent = await orch.deploy(task.id, SPEC, grace_s=1)
            await orch.report_finding(agent.id, "found", severity="high")
            end = await orch.wait(agent.id, timeout_s=3600)
            [finding] = await orch.read_findings(agent.id)
            return end.status, finding.message, orch.root

    assert ("completed", "found", scene.root) == run(backend, life)
    assert [] == leaks(scene.orchestrator())


@both
def test_errors_come_as_they_are(backend, scene):
    """Not in a group, though a group of tasks is at work below."""

    async def life():
        orch = AsyncOrchestrator.wrapping(scene.orchestrator())
        task = await orch.create_task("a task")
        agent = await orch.deploy(task.id, SPEC)
        with pytest.raises(WaitTimeout):
            await orch.wait(agent.id, timeout_s=5)
        scene.terminal.fail("start")
        with pytest.raises(DeploymentError):
            await orch.deploy(task.id, SPEC)
        with pytest.raises(InvalidInput):
            await orch.create_task(" ")

    run(backend, life)


def test_one_that_is_not_open_says_how_it_is_opened():
    with pytest.raises(InvalidInput, match="not open") as caught:
        asyncio.run(AsyncOrchestrator().tasks())

    assert "async with" in caught.value.hint


@both
def test_a_hundred_that_wait_keep_nobody_from_working(backend, scene):
    """Anyio shares out forty threads; a hundred waits take none of them."""
    halts = Halts(scene)

    async def life():
        orch = AsyncOrchestrator.wrapping(scene.orchestrator())
        task = await orch.create_task("a task")
        agent = await orch.deploy(task.id, SPEC)
        halts.watches()
        async with anyio.create_task_group() as tasks:
            for _ in range(100):
                tasks.start_soon(_wait_for, orch, agent.id)
            await halts.until_here(100)
            assert (await orch.agent(agent.id)).is_active
            tasks.cancel_scope.cancel()

    run(backend, life)


async def _wait_for(orch, agent_id):
    await orch.wait(agent_id, timeout_s=LONG_S)


# --- cancelled -------------------------------------------------------------------------------


class Halts(Observer):
    """Halts a thread at an instant of its call, until it may go on."""

    def __init__(self, scene):
        self._scene = scene
        self._here = threading.Semaphore(0)
        self._at = None
        self.go = threading.Event()
        self.left = 0

    def watches(self):
        """Let whoever watches a process do so in real time, which on a fake is never over."""

        def watch(_who, *, timeout_s, fd=None):
            self._here.release()
            poll = select.poll()
            poll.register(fd, select.POLLIN)
            news = bool(poll.poll(timeout_s * 1000))
            self.left += 1
            return WatchResult(readable=news)

        self._scene.terminal.processes.watch = watch

    def at(self, hook):
        self._at = hook
        return self

    def saga_begun(self, *_):
        self._halt("saga_begun")

    def step_done(self, *_):
        self._halt("step_done")

    def saga_committed(self, *_):
        self._halt("saga_committed")

    def saga_closed(self, *_):
        self._halt("saga_closed")

    def _halt(self, hook):
        if hook == self._at:
            self._here.release()
            assert self.go.wait(LONG_S)

    async def until_here(self, times=1):
        for _ in range(times):
            limiter = anyio.CapacityLimiter(1)
            assert await anyio.to_thread.run_sync(
                lambda: self._here.acquire(timeout=LONG_S), limiter=limiter
            )


@both
@pytest.mark.parametrize("hook", ["saga_begun", "step_done", "saga_committed"])
def test_a_cancelled_deployment_leaves_nothing(backend, hook, scene):
    """Cancelled at any time, it is past its commit or over, and then it is ended."""
    halts = Halts(scene).at(hook)

    async def life():
        orch = AsyncOrchestrator.wrapping(scene.orchestrator(observer=halts))
        task = await orch.create_task("a task")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(orch.deploy, task.id, SPEC)
            await halts.until_here()
            tasks.cancel_scope.cancel()
            halts.go.set()

    run(backend, life)

    orch = scene.orchestrator()
    assert [("terminated", "cancelled")] == [(a.status, a.end_reason) for a in orch.agents()]
    assert [] == leaks(orch)


@both
def test_a_cancelled_deployment_that_fails_is_only_cancelled(backend, scene):
    halts = Halts(scene).at("saga_begun")

    async def life():
        orch = AsyncOrchestrator.wrapping(scene.orchestrator(observer=halts))
        task = await orch.create_task("a task")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(orch.deploy, task.id, SPEC)
            await halts.until_here()
            scene.terminal.fail("start")
            tasks.cancel_scope.cancel()
            halts.go.set()

    run(backend, life)

    assert [] == scene.orchestrator().agents()
    assert [] == leaks(scene.orchestrator())


@both
def test_a_cancelled_deployment_that_cannot_be_undone_says_what_is_left(backend, scene):
    """It is not silently cancelled; and not in a group of errors."""
    halts = Halts(scene).at("saga_committed")
    caught = []

    async def life():
        orch = AsyncOrchestrator.wrapping(scene.orchestrator(observer=halts))
        task = await orch.create_task("a task")

        async def deploy():
            with pytest.raises(DeploymentError, match="not wholly undone") as error:
                await orch.deploy(task.id, SPEC)
            caught.append(error.value)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(deploy)
            await halts.until_here()
            scene.terminal.fail("kill", TerminalError("no"), times=1000)
            tasks.cancel_scope.cancel()
            halts.go.set()

    run(backend, life)

    assert caught[0].leaked
    scene.terminal.mend()
    scene.orchestrator().recover(force=True)
    assert [] == leaks(scene.orchestrator())


@both
def test_a_key_that_finds_an_agent_of_another_does_not_end_it(backend, scene):
    """The agent is not this deployment's, and is not ended with it."""
    spec = AgentSpec(type="a", prompt="do it", command=["sleep", "1"], key="one")

    async def life():
        orch = AsyncOrchestrator.wrapping(scene.orchestrator())
        task = await orch.create_task("a task")
        agent = await orch.deploy(task.id, spec)
        with anyio.CancelScope() as scope:
            asked = _Cancelling(orch.sync, scope)
            await AsyncOrchestrator.wrapping(asked).deploy(task.id, spec)
        assert asked.found == [agent]
        return await orch.agent(agent.id)

    assert run(backend, life).is_active


class _Cancelling(Orchestrator):
    """An orchestrator whose caller is cancelled the moment a deployment is over."""

    def __init__(self, orch, scope):
        self.__dict__ |= vars(orch)
        self.found = []
        deploy = orch._deployer.deploy

        def and_cancel(*args, **kwargs):
            self.found.append(deploy(*args, **kwargs))
            anyio.from_thread.run_sync(scope.cancel)
            return self.found[-1]

        self._deployer = SimpleNamespace(deploy=and_cancel)


@both
def test_a_cancelled_wait_ends_at_once_with_its_thread_and_ends_nobody(backend, scene):
    halts = Halts(scene)

    async def life():
        orch = AsyncOrchestrator.wrapping(scene.orchestrator())
        task = await orch.create_task("a task")
        agent = await orch.deploy(task.id, SPEC)
        halts.watches()
        begun = time.monotonic()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_wait_for, orch, agent.id)
            await halts.until_here()
            tasks.cancel_scope.cancel()
        return time.monotonic() - begun, halts.left, (await orch.agent(agent.id)).is_active

    took_s, left, is_active = run(backend, life)

    assert took_s < LONG_S / 2
    assert (1, True) == (left, is_active)


@both
def test_what_is_cancelled_before_it_begins_is_not_begun(backend, scene):
    async def life():
        orch = AsyncOrchestrator.wrapping(scene.orchestrator())
        with anyio.CancelScope() as scope:
            scope.cancel()
            await orch.create_task("a task")
        return await orch.tasks()

    assert [] == run(backend, life)


@both
def test_whatever_else_is_cancelled_is_done_all_the_same(backend, scene):
    """An end that was begun is carried out."""
    halts = Halts(scene).at("saga_closed")

    async def life():
        orch = AsyncOrchestrator.wrapping(scene.orchestrator(observer=halts))
        task = await orch.create_task("a task")
        agent = await orch.deploy(task.id, SPEC)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(orch.terminate, agent.id)
            await halts.until_here()
            tasks.cancel_scope.cancel()
            halts.go.set()

    run(backend, life)

    assert [] == leaks(scene.orchestrator())


def test_asyncios_own_cancellation_comes_twice_and_leaves_nothing(scene):
    """As of a web server that is in a hurry: it passes every shield, again and again."""
    halts = Halts(scene).at("step_done")

    async def life():
        orch = AsyncOrchestrator.wrapping(scene.orchestrator(observer=halts))
        task = await orch.create_task("a task")
        deploying = asyncio.create_task(orch.deploy(task.id, SPEC))
        await halts.until_here()
        for _ in range(3):
            deploying.cancel()
            await asyncio.sleep(0)
        assert not deploying.done()
        halts.go.set()
        with pytest.raises(asyncio.CancelledError):
            await deploying

    run("asyncio", life)

    orch = scene.orchestrator()
    assert [("terminated", "cancelled")] == [(a.status, a.end_reason) for a in orch.agents()]
    assert [] == leaks(orch)


def descriptors():
    return set(Path("/dev/fd").iterdir())


def test_cancelled_calls_leave_no_descriptor_open(scene):
    halts = Halts(scene)

    async def life():
        orch = AsyncOrchestrator.wrapping(scene.orchestrator())
        task = await orch.create_task("a task")
        agent = await orch.deploy(task.id, SPEC)
        halts.watches()
        before = descriptors()
        for _ in range(5):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_wait_for, orch, agent.id)
                await halts.until_here()
                tasks.cancel_scope.cancel()
        return descriptors() - before

    assert set() == run("asyncio", life)
