"""
Recovery: finish the sagas of dead owners.

Recovery inspects every open journal, acquires those without a living owner, and brings each
saga to all or nothing:

========== ==========================================================
state      action
========== ==========================================================
RUNNING    its owner died before the commit: unwound, as Recovery
UNWINDING  its owner died while it unwound: the unwinding goes on
STUCK      retried, once its time has come
COMMITTED  left alone, unless the *policy* returns a reason to end it
CLOSED     its journal is moved to the closed ones
========== ==========================================================

A crash of recovery leaves one of the same states. So recovery is idempotent.
"""

# ruff: noqa: ARG002 - the default policy ignores its arguments

from __future__ import annotations

import contextlib
import functools
import time
from typing import TYPE_CHECKING, Any, Protocol

import attrs

from orchestrator_core.exceptions import (
    JournalDamaged,
    OrchestratorError,
    SagaBusy,
    SagaNotFound,
)
from orchestrator_core.saga.engine import Saga
from orchestrator_core.saga.journal_repair import repair_entries
from orchestrator_core.saga.observer import Observer, safe
from orchestrator_core.saga.states import State
from orchestrator_core.saga.step import Unwind
from orchestrator_core.saga.unwinding import format_error
from orchestrator_core.system.json_values import JsonValues

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from orchestrator_core.saga.engine import Finalizer
    from orchestrator_core.saga.history import History
    from orchestrator_core.saga.report import UnwindReport
    from orchestrator_core.saga.step import Step
    from orchestrator_core.saga.store import JournalStore

_CLOCK_SLACK_S = 7200.0  #: A retry further away than any backoff means that the clock was set back.


@attrs.frozen
class RecoveryReport(JsonValues):
    """The results of one recovery, by saga id."""

    unwound: dict[str, UnwindReport] = attrs.field(factory=dict)
    alive: tuple[str, ...] = ()  #: Committed, and left so.
    busy: tuple[str, ...] = ()  #: Owned by a living process; or to be ended by another one.
    waiting: tuple[str, ...] = ()  #: STUCK, before the time of the retry.
    damaged: dict[str, str] = attrs.field(factory=dict)  #: The new paths of damaged journals.
    failed: dict[str, str] = attrs.field(factory=dict)  #: Why a saga could not be recovered.

    @property
    def stuck(self) -> tuple[str, ...]:
        """The sagas that still hold a resource."""
        again = (saga_id for saga_id, report in self.unwound.items() if not report.closed)
        return (*again, *self.waiting)


class RecoveryPolicy(Protocol):
    """
    The decisions that recovery leaves to the code that knows what the sagas are for.

    If a method raises, its saga stays as it is, and the error is in the report. Each method
    has a default: see :class:`KeepCommitted`.
    """

    def decide_end(self, history: History) -> Unwind | None:
        """Return why a committed saga is to be unwound; None if its life goes on. Be quick."""
        return None

    def derive_receipts(self, saga_id: str, labels: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the receipts of a saga whose journal is damaged, by step name."""
        return {}

    def has_lost_commit(self, history: History) -> bool:
        """
        Return whether a RUNNING saga without an owner was committed, and its journal was cut.

        Its journal is then rebuilt, as a damaged one is.
        """
        return False

    def includes_self(self, history: History) -> bool:
        """Return whether unwinding the saga would end the calling process."""
        return False


class KeepCommitted(RecoveryPolicy):
    """The default policy: a committed saga lives on, and only its journal leads to its steps."""


def policy_from_callables(
    verdict: Callable[[History], Unwind | None] | None = None,
    replan: Callable[[str, Mapping[str, Any]], Mapping[str, Any]] | None = None,
    spared: Callable[[History], bool] | None = None,
) -> RecoveryPolicy:
    """Return the policy that the old keywords of :meth:`Sagas.recover` describe."""
    policy = KeepCommitted()
    methods = {"decide_end": verdict, "derive_receipts": replan, "includes_self": spared}
    vars(policy).update({name: method for name, method in methods.items() if method is not None})
    return policy


@attrs.define(kw_only=True)
class Recovery:
    """The recovery of the sagas of one directory."""

    journals: JournalStore
    steps: Mapping[str, Step[Any]]
    policy: RecoveryPolicy = attrs.field(factory=KeepCommitted)
    finalizer: Finalizer | None = None
    observer: Observer = attrs.field(default=None, converter=safe)

    def run(self, *, only: str | None = None, force: bool = False) -> RecoveryReport:
        """
        Recover all sagas, or *only* one; with *force* also STUCK ones before their retry time.

        A saga that cannot be recovered never stops the others; it is in ``failed``.

        Raises:
            SagaNotFound: There is no open saga *only*.
        """
        report = RecoveryReport()
        left: dict[str, list[str]] = {"alive": [], "busy": [], "waiting": [], "ended": []}
        for saga_id in self._ids(only):
            try:
                left[self._recover(saga_id, report, force=force)].append(saga_id)
            except SagaBusy:
                left["busy"].append(saga_id)
            except SagaNotFound:
                continue  # Closed by another process meanwhile.
            except OrchestratorError as error:
                report.failed[saga_id] = f"{error.code}: {error}"
            except Exception as error:  # noqa: BLE001 - of the policy
                report.failed[saga_id] = format_error(error)
        alive, busy, waiting, _ = map(tuple, left.values())
        return attrs.evolve(report, alive=alive, busy=busy, waiting=waiting)

    def _ids(self, only: str | None) -> list[str]:
        if only is None:
            return self.journals.ids()
        if not self.journals.contains(only):
            raise SagaNotFound(f"there is no open saga {only!r}")
        return [only]

    def _recover(self, saga_id: str, report: RecoveryReport, *, force: bool) -> str:
        """Bring one saga to all or nothing; return its result, as :meth:`run` counts it."""
        with contextlib.suppress(JournalDamaged):
            # Read without a lock, which a living saga may need.
            history = self.journals.open_history(saga_id)
            if history.state is State.COMMITTED and self._why(history) is None:
                return "alive"
        with self._open(saga_id, report) as saga:
            if saga.state is State.CLOSED:
                saga.archive()
                return "ended"
            if saga.state is State.STUCK and not (force or _is_due(saga.history)):
                return "waiting"
            why = self._why(saga.history)
            if why is None:
                return "alive"
            report.unwound[saga_id] = saga.unwind(why)
        return "ended"

    def _why(self, history: History) -> Unwind | None:
        """Return why a saga is to be unwound; None if its life goes on."""
        if history.state is State.COMMITTED:
            why = self.policy.decide_end(history)
        else:
            why = history.why or Unwind.recovery("its owner died before the commit")
        if why is not None and self.policy.includes_self(history):
            raise SagaBusy(
                f"saga {history.saga_id!r} includes this process: another one has to unwind it"
            )
        return why

    def _open(self, saga_id: str, report: RecoveryReport) -> Saga:
        try:
            opened = self.journals.open(saga_id)
        except JournalDamaged:
            opened = None
        if opened is not None and self.policy.has_lost_commit(opened[1]):
            opened[0].close()
            opened = None
        if opened is None:
            self._rebuild(saga_id, report)
            opened = self.journals.open(saga_id)
        return Saga(
            self.journals, *opened, self.steps, finalizer=self.finalizer, observer=self.observer
        )

    def _rebuild(self, saga_id: str, report: RecoveryReport) -> None:
        derive = self.policy.derive_receipts
        repair = functools.partial(repair_entries, saga_id, derive_receipts=derive)
        quarantined, journal = self.journals.rebuild(
            saga_id, repair, is_damaged=self.policy.has_lost_commit
        )
        journal.close()  # Another process may take the saga now: it is whole again.
        report.damaged[saga_id] = str(quarantined)
        self.observer.journal_damaged(saga_id, quarantined)


def _is_due(history: History) -> bool:
    wait = history.retry_at - time.time()
    return wait <= 0 or wait > _CLOCK_SLACK_S
