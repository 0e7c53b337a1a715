"""
Durable sagas with compensation, for resources of any kind.

The package knows nothing of agents, terminals or registries. A caller passes steps, each of
which can take a resource and give it back. The package guarantees that either all of the
resources are held, or none is, through exceptions, interrupts and ``kill -9``::

    sagas = Sagas("state/sagas", steps=[AddWorktree(), ReservePort()])
    sagas.recover()                                # finish what a dead process left

    with sagas.begin("build-42", [AddWorktree(), ReservePort()]) as saga:
        saga.run()
        saga.commit()                              # held until the unwind

    sagas.unwind("build-42", Unwind.terminal("built"))

Read :mod:`~orchestrator_core.saga.step` first, then
:mod:`~orchestrator_core.saga.engine`.
"""

from __future__ import annotations

from orchestrator_core.saga.engine import Saga
from orchestrator_core.saga.history import History, StepState
from orchestrator_core.saga.journal import Journal
from orchestrator_core.saga.observer import Observer, combine
from orchestrator_core.saga.planning import step_name, steps_by_type
from orchestrator_core.saga.receipts import receipt
from orchestrator_core.saga.recovery import KeepCommitted, Recovery, RecoveryPolicy, RecoveryReport
from orchestrator_core.saga.report import StepReport, UnwindReport
from orchestrator_core.saga.sagas import Sagas
from orchestrator_core.saga.states import TRANSITIONS, State
from orchestrator_core.saga.step import Context, Outcome, Reason, Result, Step, Unwind
from orchestrator_core.saga.store import JournalStore
from orchestrator_core.system.deprecation import renamed
from orchestrator_core.system.presence import Presence

__all__ = [
    "TRANSITIONS",
    "Context",
    "History",
    "Journal",
    "JournalStore",
    "KeepCommitted",
    "Observer",
    "Outcome",
    "Presence",
    "Reason",
    "Recovery",
    "RecoveryPolicy",
    "RecoveryReport",
    "Result",
    "Saga",
    "Sagas",
    "State",
    "Step",
    "StepReport",
    "StepState",
    "Unwind",
    "UnwindReport",
    "combine",
    "receipt",
    "step_name",
    "steps_by_type",
]

__getattr__ = renamed(
    __name__,
    {
        "Frame": "StepState",
        "JournalDirectory": "JournalStore",
        "catalogue": "steps_by_type",
        "together": "combine",
    },
)
