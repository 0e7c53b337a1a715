"""
The orchestrator for event loops: asyncio and trio, over anyio.

::

    async with AsyncOrchestrator() as orch:
        task = await orch.create_task("Find the slow query")
        agent = await orch.deploy(task.id, spec, grace_s=0.5)
        end = await orch.wait(agent.id, timeout_s=600)

Every method of :class:`~orchestrator_core.Orchestrator` has an asynchronous method of the
same name and parameters, which runs it in a worker thread. A thread cannot be cancelled, so
a cancelled call returns when its thread is done. ``deploy`` and ``wait``, which may take
long, then end early. It needs the extra ``async``: ``pip install 'orchestrator-core[async]'``.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import contextvars
import functools
import inspect
import os
import threading
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Self, TypeVar

from orchestrator_core.deployment.cancellation import CallScope
from orchestrator_core.exceptions import (
    DeploymentError,
    InvalidInput,
    NotFound,
    OrchestratorError,
)
from orchestrator_core.orchestrator import Orchestrator
from orchestrator_core.system.deprecation import warn_renamed

try:
    import anyio
    import anyio.lowlevel
    import anyio.to_thread
except ImportError as error:

    class AnyioMissing(OrchestratorError, ImportError):
        """The extra ``async`` is not installed."""

        code = "anyio-missing"
        default_hint = "pip install 'orchestrator-core[async]'"

    raise AnyioMissing(f"anyio is not installed: {error}") from error

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path
    from types import TracebackType

    from orchestrator_core.model.settings import Settings
    from orchestrator_core.saga import RecoveryReport

__all__ = ["AsyncOrchestrator"]

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")


# --- a call in a thread ------------------------------------------------------------------------


class _CallThread:
    """
    A thread whose end a task awaits.

    The thread is no event loop's: it runs to its end whatever becomes of the loop. Its end is
    the end of a pipe, so that it needs no loop that still runs.
    """

    def __init__(self, work: Callable[[], object], *, daemon: bool) -> None:
        self._done, ended = os.pipe()
        context = contextvars.copy_context()

        def run() -> None:
            try:
                context.run(work)
            finally:
                os.close(ended)

        try:
            threading.Thread(target=run, name="orchestrator-call", daemon=daemon).start()
        except BaseException:
            os.close(ended)
            self.close()
            raise

    async def join(self) -> None:
        """Wait for the end of the thread, or for a cancellation."""
        await anyio.wait_readable(self._done)

    async def join_shielded(self) -> None:
        """Wait for the end of the thread; a cancellation meanwhile has no effect."""
        is_ended = False
        while not is_ended:
            # asyncio's own cancellation ignores the shields of anyio.
            with contextlib.suppress(anyio.get_cancelled_exc_class()):
                with anyio.CancelScope(shield=True):
                    await self.join()
                    is_ended = True

    def close(self) -> None:
        """Close the pipe. The thread goes on."""
        os.close(self._done)


class _ThreadCall(Generic[T]):
    """One call of the library in a thread, for a task that may be cancelled meanwhile."""

    #: Whether the thread counts against anyio's limit: a long wait must not keep others waiting.
    is_limited = True
    is_daemon = False  #: Whether the program may exit while the thread runs.

    def __init__(self, orch: Orchestrator, work: Callable[[], T]) -> None:
        self.orch = orch
        self._work = work
        self._result: list[T] = []
        self._error: BaseException | None = None

    async def result(self) -> T:
        """Return the call's result. A cancellation goes on when the call is over and withdrawn."""
        if not self.is_limited:
            return await self._run_in_thread()
        async with anyio.to_thread.current_default_thread_limiter():
            return await self._run_in_thread()

    async def _run_in_thread(self) -> T:
        with contextlib.closing(self._start()) as thread:
            try:
                await thread.join()
            except GeneratorExit:  # The loop was closed under this task, which cannot wait.
                self.withdraw()
                raise
            except BaseException:
                self.withdraw()
                await thread.join_shielded()
                await self.join_withdrawal()
                raise
        self.claim()
        if self._error is not None:
            raise self._error
        return self._result[0]

    def _start(self) -> _CallThread:
        try:
            return _CallThread(self._run, daemon=self.is_daemon)
        except BaseException:
            self.close()
            raise

    def _run(self) -> None:
        try:
            self._result = [self.run()]
        except BaseException as error:  # noqa: BLE001 - raised where the result is returned
            self._error = error

    def run(self) -> T:
        """Do the work, in the thread."""
        return self._work()

    def withdraw(self) -> None:
        """Shorten the work, or undo it, in a thread: its result is not wanted. Do not wait."""

    async def join_withdrawal(self) -> None:
        """Wait for what :meth:`withdraw` began; the call itself is over."""

    def claim(self) -> None:
        """Take the result: from now on the caller has it."""

    def close(self) -> None:
        """Release the call's resources; the work never began."""


class _WaitCall(_ThreadCall[T]):
    """A wait, which ends when its caller is cancelled."""

    is_limited = False
    is_daemon = True

    def __init__(self, orch: Orchestrator, work: Callable[[], T]) -> None:
        super().__init__(orch, work)
        self._scope = CallScope()

    def run(self) -> T:
        with self._scope.activate():
            return super().run()

    def withdraw(self) -> None:
        self._scope.stop()

    def close(self) -> None:
        self._scope.close()


class _DeployCall(_ThreadCall[T]):
    """
    A deployment, whose agent is terminated when the result does not reach its caller.

    After a cancellation, the termination runs in a separate thread, which no event loop can stop.
    If the loop is closed under the task, the deployment's thread ends the agent itself, or else
    the end of the program does.
    """

    is_limited = False

    def __init__(self, orch: Orchestrator, work: Callable[[], T]) -> None:
        super().__init__(orch, work)
        self._scope = CallScope()
        self._ender: _CallThread | None = None
        self._end_error: Exception | None = None
        self.pid = os.getpid()
        self._loop = _running_asyncio_loop()

    def run(self) -> T:
        with self._scope.activate():
            result = super().run()
        if self._loop is not None and self._loop.is_closed():
            self.end_agent()
        return result

    def _start(self) -> _CallThread:
        _unclaimed.add(self)
        return super()._start()

    def claim(self) -> None:
        _unclaimed.discard(self)

    def close(self) -> None:
        self.claim()
        self._scope.close()

    def withdraw(self) -> None:
        try:
            self._ender = _CallThread(self.end_agent, daemon=False)
        except RuntimeError:  # The system has no more threads, or the program ends.
            self.end_agent()

    async def join_withdrawal(self) -> None:
        if self._ender is not None:
            with contextlib.closing(self._ender):
                await self._ender.join_shielded()
        if self._end_error is not None:
            raise self._end_error from None

    def end_agent(self) -> None:
        """End the agent as soon as it is committed."""
        _unclaimed.discard(self)
        agent_id = self._scope.wait_for_agent()
        if agent_id is None:
            return  # The deployment failed, or returned the agent of an earlier one.
        try:
            end = self.orch.terminate(agent_id, reason="cancelled")
        except NotFound:
            return  # The agent died early, and has been undone.
        except Exception as error:  # noqa: BLE001 - raised where the cancellation is
            self._end_error = error
            return
        if not end.success:
            self._end_error = DeploymentError(
                f"agent {agent_id!r} was cancelled, and not wholly undone",
                hint=f"orchestrator-core recover {agent_id}",
                agent_id=agent_id,
                leaked=end.errors,
            )


def _running_asyncio_loop() -> asyncio.AbstractEventLoop | None:
    """Return the loop that runs this task; None for trio, which ends with its tasks only."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


_unclaimed: set[_DeployCall[Any]] = set()  #: Begun, and no caller has the result yet.


@atexit.register
def _end_unclaimed() -> None:
    """End the agents of tasks that no event loop runs any more. The calls' threads have ended."""
    for call in list(_unclaimed):
        if call.pid == os.getpid():  # A forked process has a copy.
            call.end_agent()


def _async_method(
    method: Callable[Concatenate[Orchestrator, P], T], call: type[_ThreadCall[Any]] = _ThreadCall
) -> Callable[Concatenate[AsyncOrchestrator, P], Coroutine[Any, Any, T]]:
    """Return a coroutine function that runs the orchestrator's *method* in a thread."""

    @functools.wraps(method)
    async def wrapper(self: AsyncOrchestrator, /, *args: P.args, **kwargs: P.kwargs) -> T:
        await anyio.lowlevel.checkpoint_if_cancelled()
        work = functools.partial(method, self.sync, *args, **kwargs)
        running: _ThreadCall[T] = call(self.sync, work)
        return await running.result()

    return wrapper


def _with_parameters_of(
    original: Callable[Concatenate[Orchestrator, P], None],
) -> Callable[[Callable[..., None]], Callable[Concatenate[AsyncOrchestrator, P], None]]:
    """Return a decorator that gives an ``__init__`` the parameters of *original*."""

    def decorate(method: Any) -> Callable[Concatenate[AsyncOrchestrator, P], None]:  # noqa: ANN401 - its signature is set
        method.__signature__ = inspect.signature(original)
        initialize: Callable[Concatenate[AsyncOrchestrator, P], None] = method
        return initialize

    return decorate


# --- the asynchronous orchestrator ---------------------------------------------------------------


class AsyncOrchestrator:
    """
    The orchestrator for event loops: all agents below one root.

    ``async with`` opens it, and recovers what dead owners left there; leaving the block ends
    no agent. :meth:`wrapping` makes one from an orchestrator that is already open.

    A cancelled call returns when its thread is done. A cancelled ``deploy`` has ended its
    agent with the reason "cancelled": nothing is left, or the error names what is. A
    cancelled ``wait`` stops at once, and ends no agent. Every other cancelled call has had
    its effect.
    """

    @_with_parameters_of(Orchestrator.__init__)
    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - see the decorator
        """Prepare to open a root; the parameters are those of :class:`Orchestrator`."""
        inspect.signature(Orchestrator).bind(*args, **kwargs)
        self._sync: Orchestrator | None = None
        self._open = functools.partial(Orchestrator, *args, **kwargs)

    @classmethod
    def wrapping(cls, orchestrator: Orchestrator) -> Self:
        """Return the asynchronous orchestrator of one that is already open."""
        wrapper = cls()
        wrapper._sync = orchestrator
        return wrapper

    @classmethod
    def of(cls, orchestrator: Orchestrator) -> Self:
        """Return :meth:`wrapping`; this old name emits a DeprecationWarning."""
        warn_renamed("AsyncOrchestrator.of", "wrapping")
        return cls.wrapping(orchestrator)

    @property
    def sync(self) -> Orchestrator:
        """The synchronous orchestrator, safe in any number of threads."""
        if self._sync is None:
            raise InvalidInput(
                "the orchestrator is not open", hint="async with AsyncOrchestrator(…) as orch: …"
            )
        return self._sync

    @property
    def root(self) -> Path:
        """The directory that holds all state."""
        return self.sync.root

    @property
    def chosen_by(self) -> str:
        """The source of this root: see :func:`~orchestrator_core.model.layout.find_root`."""
        return self.sync.chosen_by

    @property
    def settings(self) -> Settings:
        """The settings in the root's ``orchestrator.toml``, and the defaults for the rest."""
        return self.sync.settings

    @property
    def recovery(self) -> RecoveryReport | None:
        """The result of the recovery at opening; None without one."""
        return self.sync.recovery

    @property
    def damaged(self) -> list[dict[str, str]]:
        """The registries found damaged since this was opened: which, where it is kept, and why."""
        return self.sync.damaged

    @property
    def unreadable(self) -> dict[str, str]:
        """The files that the last listing could not read, and why, by path."""
        return self.sync.unreadable

    create_task = _async_method(Orchestrator.create_task)
    discard_task = _async_method(Orchestrator.discard_task)
    deploy = _async_method(Orchestrator.deploy, _DeployCall)
    report_progress = _async_method(Orchestrator.report_progress)
    report_finding = _async_method(Orchestrator.report_finding)
    agent = _async_method(Orchestrator.agent)
    agents = _async_method(Orchestrator.agents)
    task = _async_method(Orchestrator.task)
    tasks = _async_method(Orchestrator.tasks)
    read_output = _async_method(Orchestrator.read_output)
    open_output = _async_method(Orchestrator.open_output)
    read_findings = _async_method(Orchestrator.read_findings)
    read_progress = _async_method(Orchestrator.read_progress)
    read_result = _async_method(Orchestrator.read_result)
    terminate = _async_method(Orchestrator.terminate)
    wait = _async_method(Orchestrator.wait, _WaitCall)
    recover = _async_method(Orchestrator.recover)
    abandon = _async_method(Orchestrator.abandon)
    history = _async_method(Orchestrator.history)
    finish = _async_method(Orchestrator.finish)
    sweep = _async_method(Orchestrator.sweep)
    stats = _async_method(Orchestrator.stats)
    gc = _async_method(Orchestrator.gc)
    export_task = _async_method(Orchestrator.export_task)
    repair = _async_method(Orchestrator.repair)
    approve_settings = _async_method(Orchestrator.approve_settings)

    async def __aenter__(self) -> Self:
        if self._sync is None:
            self._sync = await anyio.to_thread.run_sync(self._open)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Do nothing: agents live on, and no call outlasts its caller."""
