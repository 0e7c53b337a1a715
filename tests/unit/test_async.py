"""The asynchronous orchestrator has all methods, and a cancelled call leaves nothing."""

from __future__ import annotations

import asyncio
import contextlib
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
import anyio.lowlevel
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
    """Run *story*, with a time limit that none of these reaches."""

    async def bounded():
        with anyio.fail_after(LONG_S):
            return await story()

    return anyio.run(bounded, backend=backend)


# --- the same interface --------------------------------------------------------------------------


def public(cls):
    return {name: value for name, value in inspect.getmembers(cls) if not name.startswith("_")}


def test_every_method_has_an_asynchronous_one_with_its_signature_and_docstring():
    methods = {name for name, value in public(Orchestrator).items() if inspect.isfunction(value)}
    wrappers = public(AsyncOrchestrator)

    assert methods == {n for n, value in wrappers.items() if inspect.iscoroutinefunction(value)}
    for name in methods:
        original = getattr(Orchestrator, name)
        assert inspect.signature(original) == inspect.signature(wrappers[name]), name
        assert original.__doc__ == wrappers[name].__doc__, name


def test_the_constructors_have_the_same_parameters():
    assert inspect.signature(Orchestrator) == inspect.signature(AsyncOrchestrator)


def test_the_attributes_are_those_of_the_orchestrator(scene):
    orch = scene.orchestrator()
    wrapper = AsyncOrchestrator.wrapping(orch)

    names = {name for name in (*vars(orch), *public(Orchestrator)) if not name.startswith("_")}

    assert set() == {name for name in names if not hasattr(wrapper, name)}
    assert (orch.root, orch.chosen_by) == (wrapper.root, wrapper.chosen_by)
    assert (orch.recovery, orch.damaged) == (wrapper.recovery, wrapper.damaged)


def test_the_old_name_of_wrapping_warns(scene):
    orch = scene.orchestrator()
    with pytest.warns(DeprecationWarning, match="wrapping"):
        assert orch is AsyncOrchestrator.of(orch).sync


def test_without_anyio_the_error_names_the_extra():
    code = (
        "import sys; sys.modules['anyio'] = None\n"
        "from orchestrator_core import OrchestratorError\n"
        "try: import orchestrator_core.aio\n"
        "except OrchestratorError as error: print(error.hint)"
    )

    output = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(TOP)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    assert "pip install 'orchestrator-core[async]'\n" == output


# --- a life --------------------------------------------------------------------------------------


@both
def test_an_agent_lives_and_ends_by_asynchronous_calls(backend, scene):
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
def test_an_error_is_raised_unwrapped(backend, scene):
    """No exception group reaches the caller, although a task group runs the call."""

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


def test_a_call_before_the_opening_names_the_remedy():
    with pytest.raises(InvalidInput, match="not open") as caught:
        asyncio.run(AsyncOrchestrator().tasks())

    assert "async with" in caught.value.hint


@both
def test_a_hundred_waits_leave_threads_for_other_calls(backend, scene):
    """Anyio has a limit of 40 threads; waits do not count against it."""
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


# --- cancelled -----------------------------------------------------------------------------------


class Halts(Observer):
    """Stops a thread at one point of its call, until the test releases it."""

    def __init__(self, scene):
        self._scene = scene
        self._here = threading.Semaphore(0)
        self._at = None
        self.go = threading.Event()
        self.left = 0

    def watches(self):
        """Let each watch of a process take real time, which never ends on a fake."""

        def watch(_process, *, timeout_s, fd=None):
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
    """At any time, the deployment either fails or commits, and a committed agent is ended."""
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
def test_a_cancelled_deployment_that_fails_raises_the_cancellation_only(backend, scene):
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
def test_a_cancelled_deployment_that_cannot_be_undone_names_what_is_left(backend, scene):
    """The error replaces the cancellation, and is in no exception group."""
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
def test_a_cancelled_deployment_by_key_does_not_end_the_agent_that_it_finds(backend, scene):
    """Another deployment started that agent."""
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
    """An orchestrator whose caller is cancelled as soon as a deployment returns."""

    def __init__(self, orch, scope):
        self.__dict__ |= vars(orch)
        self.found = []
        loop = anyio.lowlevel.current_token()
        deploy = orch._deployer.deploy

        def and_cancel(*args, **kwargs):
            self.found.append(deploy(*args, **kwargs))
            anyio.from_thread.run_sync(scope.cancel, token=loop)
            return self.found[-1]

        self._deployer = SimpleNamespace(deploy=and_cancel)


@both
def test_a_cancelled_wait_ends_at_once_with_its_thread_and_ends_no_agent(backend, scene):
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
def test_a_call_that_is_cancelled_before_it_begins_does_nothing(backend, scene):
    async def life():
        orch = AsyncOrchestrator.wrapping(scene.orchestrator())
        with anyio.CancelScope() as scope:
            scope.cancel()
            await orch.create_task("a task")
        return await orch.tasks()

    assert [] == run(backend, life)


@both
def test_any_other_cancelled_call_has_its_effect(backend, scene):
    """A termination that has begun is completed."""
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


def test_a_second_cancellation_by_asyncio_itself_leaves_nothing(scene):
    """A web server cancels so at its shutdown; no shield of anyio stops it."""
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


# --- a loop that ends, and a program that ends ---------------------------------------------------


@pytest.mark.parametrize("hook", ["saga_begun", "step_done", "saga_committed"])
@pytest.mark.parametrize("error", [None, ZeroDivisionError])
def test_a_loop_that_ends_during_a_deployment_leaves_nothing(scene, hook, error):
    """asyncio.run() cancels every task at once, those inside a library as well."""
    halts = Halts(scene).at(hook)
    kept = []

    async def main():
        orch = AsyncOrchestrator.wrapping(scene.orchestrator(observer=halts))
        task = await orch.create_task("a task")
        kept.append(asyncio.create_task(orch.deploy(task.id, SPEC)))
        await halts.until_here()
        asyncio.get_running_loop().call_later(0.05, halts.go.set)
        if error is not None:
            raise error

    with contextlib.suppress(ZeroDivisionError):
        asyncio.run(main())

    until_calls_end(halts)
    orch = scene.orchestrator()
    assert [("terminated", "cancelled")] == [(a.status, a.end_reason) for a in orch.agents()]
    assert [] == leaks(orch)


def test_a_loop_that_is_closed_under_a_deployment_leaves_nothing(scene):
    """No task is cancelled: the loop is stopped and closed."""
    halts = Halts(scene).at("step_done")
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)  # "Task was destroyed but it is pending!"
    kept = []

    async def main():
        orch = AsyncOrchestrator.wrapping(scene.orchestrator(observer=halts))
        task = await orch.create_task("a task")
        kept.append(asyncio.create_task(orch.deploy(task.id, SPEC)))
        await halts.until_here()

    loop.run_until_complete(main())
    loop.close()

    until_calls_end(halts)
    orch = scene.orchestrator()
    assert [("terminated", "cancelled")] == [(a.status, a.end_reason) for a in orch.agents()]
    assert [] == leaks(orch)


def test_a_deployment_whose_thread_cannot_start_leaves_no_descriptor(scene, monkeypatch):
    def refuse(_thread):
        raise RuntimeError("can't start new thread")

    async def life():
        orch = AsyncOrchestrator.wrapping(scene.orchestrator())
        before = descriptors()
        monkeypatch.setattr(threading.Thread, "start", refuse)
        for call in (orch.deploy("TASK-1", SPEC), orch.wait("a-1", timeout_s=1)):
            with pytest.raises(RuntimeError, match="new thread"):
                await call
        return descriptors() - before

    assert set() == run("asyncio", life)


def until_calls_end(halts):
    """Return when no thread of a call is left."""
    halts.go.set()
    deadline = time.monotonic() + LONG_S
    for thread in threading.enumerate():
        if thread.name.startswith("orchestrator-call"):
            thread.join(deadline - time.monotonic())
