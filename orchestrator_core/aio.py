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

import functools
import inspect
import math
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


class _ThreadCall(Generic[T]):
    """One call of the library in a worker thread, for a task that may be cancelled meanwhile."""

    #: Whether the thread counts against anyio's limit: a long wait must not keep others waiting.
    is_limited = True

    def __init__(self, orch: Orchestrator, work: Callable[[], T]) -> None:
        self.orch = orch
        self._work = work
        self._done = anyio.Event()
        self._result: list[T] = []
        self._error: Exception | None = None
        self._withdraw_error: Exception | None = None

    async def result(self) -> T:
        """Return the call's result. A cancellation goes on when the call is over and withdrawn."""
        returned = False
        try:
            # The thread is awaited by a second task: asyncio's own cancellation ignores shields,
            # but reaches only the task that it names.
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._run)
                try:
                    await self._done.wait()
                    returned = True
                except BaseException:
                    self.stop()
                    tasks.start_soon(self._withdraw)
                    raise
        except BaseException:
            if returned:  # The cancellation came between the call's end and this task's turn.
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._withdraw)
            if self._withdraw_error is not None:
                raise self._withdraw_error from None
            raise
        if self._error is not None:
            raise self._error
        return self._result[0]

    async def _run(self) -> None:
        try:
            self._result = [await self._in_thread(self.run)]
        except Exception as error:  # noqa: BLE001 - raised where the result is returned
            self._error = error
        finally:
            self.close()
            self._done.set()

    async def _withdraw(self) -> None:
        try:
            await self._in_thread(self.withdraw)
        except Exception as error:  # noqa: BLE001 - raised where the cancellation is
            self._withdraw_error = error

    async def _in_thread(self, work: Callable[[], R]) -> R:
        limiter = None if self.is_limited else anyio.CapacityLimiter(math.inf)
        with anyio.CancelScope(shield=True):
            return await anyio.to_thread.run_sync(work, limiter=limiter)
        raise AssertionError("nothing cancels this scope")

    def run(self) -> T:
        """Do the work, in the thread."""
        return self._work()

    def stop(self) -> None:
        """Shorten the work, from the event loop: its result is no longer needed."""

    def withdraw(self) -> None:
        """Undo the work, in a thread, perhaps while the work still runs."""

    def close(self) -> None:
        """Release the call's resources; the work is done, or never began."""


class _CancellableCall(_ThreadCall[T]):
    """A call whose work looks at a cancellation scope while it runs."""

    is_limited = False

    def __init__(self, orch: Orchestrator, work: Callable[[], T]) -> None:
        super().__init__(orch, work)
        self.scope = CallScope()

    def run(self) -> T:
        with self.scope.activate():
            return super().run()

    def close(self) -> None:
        self.scope.close()


class _WaitCall(_CancellableCall[T]):
    """A wait, which ends when its caller is cancelled."""

    def stop(self) -> None:
        self.scope.stop()


class _DeployCall(_CancellableCall[T]):
    """A deployment, whose agent is terminated when its caller is cancelled."""

    def withdraw(self) -> None:
        agent_id = self.scope.wait_for_agent()
        if agent_id is None:
            return  # The deployment failed, or returned the agent of an earlier one.
        try:
            end = self.orch.terminate(agent_id, reason="cancelled")
        except NotFound:
            return  # The agent died early, and has been undone.
        if not end.success:
            raise DeploymentError(
                f"agent {agent_id!r} was cancelled, and not wholly undone",
                hint=f"orchestrator-core recover {agent_id}",
                agent_id=agent_id,
                leaked=end.errors,
            )


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
