"""
The orchestrator for event loops: asyncio and trio, over anyio.

::

    async with AsyncOrchestrator() as orch:
        task = await orch.create_task("Find the slow query")
        agent = await orch.deploy(task.id, spec, grace_s=0.5)
        end = await orch.wait(agent.id, timeout_s=600)

Every method of :class:`~orchestrator_core.Orchestrator` has a twin of the same name and
parameters, which runs it in a worker thread. A thread cannot be cancelled, so no call
returns before its thread is done with it; how soon that is, the two that may take long
see to. It needs the extra ``async``: ``pip install 'orchestrator-core[async]'``.
"""

from __future__ import annotations

import functools
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

    raise AnyioMissing(f"there is no anyio here: {error}") from error

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Coroutine
    from pathlib import Path
    from types import TracebackType

    from orchestrator_core.model.limits import Limits
    from orchestrator_core.model.settings import Settings
    from orchestrator_core.operations.alerts import OnFailedCleanup
    from orchestrator_core.saga import Observer, RecoveryReport
    from orchestrator_core.system.processes.protocol import GracePeriods, Processes
    from orchestrator_core.system.terminal import Terminal

__all__ = ["AsyncOrchestrator"]

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")


# --- a call in a thread ------------------------------------------------------------------------


class _Call(Generic[T]):
    """One call of the library in a worker thread, for a task that may be cancelled meanwhile."""

    #: Threads beside those that anyio shares out: who waits must not keep others from working.
    in_own_thread = False

    def __init__(self, orch: Orchestrator, work: Callable[[], T]) -> None:
        self.orch = orch
        self._work = work
        self._over = anyio.Event()
        self._result: list[T] = []
        self._error: Exception | None = None
        self._trouble: Exception | None = None

    async def result(self) -> T:
        """Return what it comes to. If we are cancelled, it is over and withdrawn before we are."""
        done = False
        try:
            # A task of its own for the thread: asyncio's cancellation passes every shield,
            # but does not reach beyond the task that it was meant for.
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._go)
                try:
                    await self._over.wait()
                    done = True
                except BaseException:
                    self.stop()
                    tasks.start_soon(self._go_back)
                    raise
        except BaseException:
            if done:  # Cancelled between its end and here.
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._go_back)
            if self._trouble is not None:
                raise self._trouble from None
            raise
        if self._error is not None:
            raise self._error
        return self._result[0]

    async def _go(self) -> None:
        try:
            self._result = [await self._threaded(self.run)]
        except Exception as error:  # noqa: BLE001 - raised where the result is asked for
            self._error = error
        finally:
            self.close()
            self._over.set()

    async def _go_back(self) -> None:
        try:
            await self._threaded(self.withdraw)
        except Exception as error:  # noqa: BLE001 - raised where we are cancelled
            self._trouble = error

    async def _threaded(self, work: Callable[[], R]) -> R:
        limiter = anyio.CapacityLimiter(math.inf) if self.in_own_thread else None
        with anyio.CancelScope(shield=True):
            return await anyio.to_thread.run_sync(work, limiter=limiter)
        raise AssertionError("nobody cancels this scope itself")

    def run(self) -> T:
        """Do it, in the thread."""
        return self._work()

    def stop(self) -> None:
        """Let it end soon, in the event loop: nobody wants its result any more."""

    def withdraw(self) -> None:
        """Undo what it has made, in a thread, perhaps while it is still at it."""

    def close(self) -> None:
        """It is over, or was never begun."""


class _Followed(_Call[T]):
    """One that tells how far it is, and listens."""

    in_own_thread = True

    def __init__(self, orch: Orchestrator, work: Callable[[], T]) -> None:
        super().__init__(orch, work)
        self.scope = CallScope()

    def run(self) -> T:
        with self.scope.activate():
            return super().run()

    def close(self) -> None:
        self.scope.close()


class _Wait(_Followed[T]):
    """A wait, which ends when nobody waits any more."""

    def stop(self) -> None:
        self.scope.stop()


class _Deployment(_Followed[T]):
    """A deployment, whose agent is ended when nobody wants it any more."""

    def withdraw(self) -> None:
        agent_id = self.scope.wait_for_agent()
        if agent_id is None:
            return  # It failed, or found an agent that somebody else has deployed.
        try:
            end = self.orch.terminate(agent_id, reason="cancelled")
        except NotFound:
            return  # It died early, and has been undone.
        if not end.success:
            raise DeploymentError(
                f"agent {agent_id!r} was cancelled, and not wholly undone",
                hint=f"orchestrator-core recover {agent_id}",
                agent_id=agent_id,
                leaked=end.errors,
            )


def _twin(
    method: Callable[Concatenate[Orchestrator, P], T], kind: type[_Call[Any]] = _Call
) -> Callable[Concatenate[AsyncOrchestrator, P], Coroutine[Any, Any, T]]:
    """Return a method that runs the orchestrator's in a thread."""

    @functools.wraps(method)
    async def twin(self: AsyncOrchestrator, /, *args: P.args, **kwargs: P.kwargs) -> T:
        await anyio.lowlevel.checkpoint_if_cancelled()
        call: _Call[T] = kind(self.sync, functools.partial(method, self.sync, *args, **kwargs))
        return await call.result()

    return twin


# --- the twin ------------------------------------------------------------------------------------


class AsyncOrchestrator:
    """
    The orchestrator for event loops: all agents below one root.

    Opened by ``async with``, which recovers what dead owners left there; leaving it ends
    nobody. :meth:`wrapping` makes one of an orchestrator that is open already.

    A call that is cancelled returns when its thread is done with it: a cancelled
    ``deploy`` has ended its agent, with the reason "cancelled", and nothing is left, or
    it raises and names what is; a cancelled ``wait`` stops waiting, at once, and ends
    nobody. Whatever else is cancelled has been done all the same.
    """

    def __init__(  # noqa: PLR0913 - as Orchestrator's
        self,
        root: str | os.PathLike[str] | None = None,
        *,
        terminal: Terminal | None = None,
        processes: Processes | None = None,
        limits: Limits | None = None,
        patience: GracePeriods | None = None,
        observer: Observer | None = None,
        on_failed_cleanup: OnFailedCleanup | None = None,
        recover: bool = True,
        timeout_s: float = 30.0,
        lock_timeout_s: float = 10.0,
        terminal_timeout_s: float = 10.0,
    ) -> None:
        """Prepare to open a root; the parameters are :class:`Orchestrator`'s."""
        self._sync: Orchestrator | None = None
        self._open = functools.partial(
            Orchestrator,
            root,
            terminal=terminal,
            processes=processes,
            limits=limits,
            patience=patience,
            observer=observer,
            on_failed_cleanup=on_failed_cleanup,
            recover=recover,
            timeout_s=timeout_s,
            lock_timeout_s=lock_timeout_s,
            terminal_timeout_s=terminal_timeout_s,
        )

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
        """The orchestrator that does the work, safe in any number of threads."""
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
        """What led to this root."""
        return self.sync.chosen_by

    @property
    def settings(self) -> Settings:
        """What ``orchestrator.toml`` in the root says, and the defaults for the rest."""
        return self.sync.settings

    @property
    def recovery(self) -> RecoveryReport | None:
        """What opening has recovered."""
        return self.sync.recovery

    @property
    def damaged(self) -> list[dict[str, str]]:
        """The registries found damaged since this was opened: which, where it is kept, and why."""
        return self.sync.damaged

    create_task = _twin(Orchestrator.create_task)
    deploy = _twin(Orchestrator.deploy, _Deployment)
    report_progress = _twin(Orchestrator.report_progress)
    report_finding = _twin(Orchestrator.report_finding)
    agent = _twin(Orchestrator.agent)
    agents = _twin(Orchestrator.agents)
    task = _twin(Orchestrator.task)
    tasks = _twin(Orchestrator.tasks)
    read_output = _twin(Orchestrator.read_output)
    read_findings = _twin(Orchestrator.read_findings)
    read_progress = _twin(Orchestrator.read_progress)
    read_result = _twin(Orchestrator.read_result)
    terminate = _twin(Orchestrator.terminate)
    wait = _twin(Orchestrator.wait, _Wait)
    recover = _twin(Orchestrator.recover)
    abandon = _twin(Orchestrator.abandon)
    history = _twin(Orchestrator.history)
    finish = _twin(Orchestrator.finish)
    sweep = _twin(Orchestrator.sweep)
    stats = _twin(Orchestrator.stats)
    gc = _twin(Orchestrator.gc)
    export_task = _twin(Orchestrator.export_task)
    repair = _twin(Orchestrator.repair)

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
        """Nothing to do: agents live on, and no call outlasts its caller."""
