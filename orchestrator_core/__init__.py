"""
Deploy headless agents into tmux as sagas; unwind them at their end, with nothing left.

::

    from orchestrator_core import AgentSpec, Orchestrator

    with Orchestrator(root) as orch:
        task = orch.create_task("Find the slow query")
        spec = AgentSpec(type="investigator", prompt="…", command=["claude", "-p"])
        agent = orch.deploy(task.id, spec, grace_s=0.5)
        orch.wait(agent.id, timeout_s=600)

Names are imported when they are first used, so that ``import orchestrator_core``
costs next to nothing. :mod:`orchestrator_core.saga` is of use by itself.
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing itself takes as long to import as a supervisor to start.
if TYPE_CHECKING:
    from orchestrator_core.deployment.report_reader import ReportedFinding, ReportedProgress
    from orchestrator_core.deployment.reports import ReportReceipt
    from orchestrator_core.exceptions import (
        CouldNotAsk,
        DeploymentError,
        InvalidId,
        InvalidInput,
        LimitReached,
        LockTimeout,
        NotFound,
        OrchestratorError,
        RegistryDamaged,
        RegistryError,
        RegistryTooNew,
        SagaBusy,
        SagaError,
        StorageError,
        Survivors,
        TaskRunning,
        TerminalError,
        TerminalTimeout,
        TerminalUnavailable,
        WaitTimeout,
    )
    from orchestrator_core.model.limits import Limits
    from orchestrator_core.model.outcome import EndReport
    from orchestrator_core.model.records import Agent, Task
    from orchestrator_core.model.spec import AgentSpec
    from orchestrator_core.model.status import Status
    from orchestrator_core.operations.alerts import FailedCleanup
    from orchestrator_core.operations.metrics import Stats
    from orchestrator_core.operations.retention import ExportReport, GcReport
    from orchestrator_core.operations.sweeper import Health, Sweeper
    from orchestrator_core.orchestrator import Orchestrator
    from orchestrator_core.presets.result import AgentResult, TokenUsage
    from orchestrator_core.reconcile.sweep.findings import (
        Finding,
        FindingKind,
        ReapResult,
        SweepReport,
    )
    from orchestrator_core.system.processes.protocol import GracePeriods

__version__ = "0.1.0"

_HOMES = {
    "orchestrator_core.model.records": ("Agent", "Task"),
    "orchestrator_core.operations.alerts": ("FailedCleanup",),
    "orchestrator_core.model.outcome": ("EndReport",),
    "orchestrator_core.exceptions": (
        "CouldNotAsk",
        "DeploymentError",
        "InvalidId",
        "InvalidInput",
        "LimitReached",
        "LockTimeout",
        "NotFound",
        "OrchestratorError",
        "RegistryDamaged",
        "RegistryError",
        "RegistryTooNew",
        "SagaBusy",
        "SagaError",
        "StorageError",
        "Survivors",
        "TaskRunning",
        "TerminalError",
        "TerminalTimeout",
        "TerminalUnavailable",
        "WaitTimeout",
    ),
    "orchestrator_core.model.limits": ("Limits",),
    "orchestrator_core.operations.metrics": ("Stats",),
    "orchestrator_core.orchestrator": ("Orchestrator",),
    "orchestrator_core.system.processes.protocol": ("GracePeriods",),
    "orchestrator_core.deployment.report_reader": ("ReportedFinding", "ReportedProgress"),
    "orchestrator_core.deployment.reports": ("ReportReceipt",),
    "orchestrator_core.operations.retention": ("ExportReport", "GcReport"),
    "orchestrator_core.model.spec": ("AgentSpec",),
    "orchestrator_core.model.status": ("Status",),
    "orchestrator_core.presets.result": ("AgentResult", "TokenUsage"),
    "orchestrator_core.operations.sweeper": ("Health", "Sweeper"),
    "orchestrator_core.reconcile.sweep.findings": (
        "Finding",
        "FindingKind",
        "ReapResult",
        "SweepReport",
    ),
}
_RENAMED = {"Patience": "GracePeriods", "Reaped": "ReapResult"}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Agent",
    "AgentResult",
    "AgentSpec",
    "CouldNotAsk",
    "DeploymentError",
    "EndReport",
    "ExportReport",
    "FailedCleanup",
    "Finding",
    "FindingKind",
    "GcReport",
    "GracePeriods",
    "Health",
    "InvalidId",
    "InvalidInput",
    "LimitReached",
    "Limits",
    "LockTimeout",
    "NotFound",
    "Orchestrator",
    "OrchestratorError",
    "ReapResult",
    "RegistryDamaged",
    "RegistryError",
    "RegistryTooNew",
    "ReportReceipt",
    "ReportedFinding",
    "ReportedProgress",
    "SagaBusy",
    "SagaError",
    "Stats",
    "Status",
    "StorageError",
    "Survivors",
    "SweepReport",
    "Sweeper",
    "Task",
    "TaskRunning",
    "TerminalError",
    "TerminalTimeout",
    "TerminalUnavailable",
    "TokenUsage",
    "WaitTimeout",
    "__version__",
]


def __getattr__(name: str) -> object:
    if name in _RENAMED:
        from orchestrator_core.system.deprecation import warn_renamed  # noqa: PLC0415 - for the first use of an old name only

        new_name = _RENAMED[name]
        warn_renamed(f"{__name__}.{name}", f"{__name__}.{new_name}")
        return __getattr__(new_name)
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib  # noqa: PLC0415 - for the first use of each name only

    value: object = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
