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

TYPE_CHECKING = False  # The import of typing takes as long as the start of a supervisor.
if TYPE_CHECKING:
    from orchestrator_core.deployment.output_reader import AgentOutput as AgentOutput
    from orchestrator_core.deployment.reports import ReportReceipt as ReportReceipt
    from orchestrator_core.exceptions import (
        CouldNotAsk as CouldNotAsk,
        DeploymentError as DeploymentError,
        InvalidId as InvalidId,
        InvalidInput as InvalidInput,
        LimitReached as LimitReached,
        LockTimeout as LockTimeout,
        NotFound as NotFound,
        OrchestratorError as OrchestratorError,
        RegistryDamaged as RegistryDamaged,
        RegistryError as RegistryError,
        RegistryTooNew as RegistryTooNew,
        SagaBusy as SagaBusy,
        SagaError as SagaError,
        StorageError as StorageError,
        Survivors as Survivors,
        TaskRunning as TaskRunning,
        TerminalError as TerminalError,
        TerminalTimeout as TerminalTimeout,
        TerminalUnavailable as TerminalUnavailable,
        WaitTimeout as WaitTimeout,
    )
    from orchestrator_core.model.limits import Limits as Limits
    from orchestrator_core.model.outcome import EndReport as EndReport, StepRecord as StepRecord
    from orchestrator_core.model.records import (
        Agent as Agent,
        ReportedFinding as ReportedFinding,
        ReportedProgress as ReportedProgress,
        Task as Task,
    )
    from orchestrator_core.model.settings import Settings as Settings
    from orchestrator_core.model.spec import AgentSpec as AgentSpec
    from orchestrator_core.model.status import Status as Status
    from orchestrator_core.operations.alerts import FailedCleanup as FailedCleanup
    from orchestrator_core.operations.metrics import Stats as Stats
    from orchestrator_core.operations.retention import (
        ExportReport as ExportReport,
        GcReport as GcReport,
    )
    from orchestrator_core.operations.sweeper import (
        Health as Health,
        Sweeper as Sweeper,
    )
    from orchestrator_core.orchestrator import Orchestrator as Orchestrator
    from orchestrator_core.presets.result import (
        AgentResult as AgentResult,
        PermissionDenial as PermissionDenial,
        TokenUsage as TokenUsage,
    )
    from orchestrator_core.reconcile.repair import RepairReport as RepairReport
    from orchestrator_core.reconcile.sweep.findings import (
        Finding as Finding,
        FindingKind as FindingKind,
        ReapResult as ReapResult,
        SweepReport as SweepReport,
    )
    from orchestrator_core.saga import (
        History as History,
        Observer as Observer,
        RecoveryReport as RecoveryReport,
        Step as Step,
        UnwindReport as UnwindReport,
    )
    from orchestrator_core.system.processes.protocol import GracePeriods as GracePeriods

__version__ = "0.1.0"

#: The public names by their modules; a test compares them with the imports above.
_HOMES = {
    "orchestrator_core.deployment.output_reader": ("AgentOutput",),
    "orchestrator_core.deployment.reports": ("ReportReceipt",),
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
    "orchestrator_core.model.outcome": ("EndReport", "StepRecord"),
    "orchestrator_core.model.records": ("Agent", "ReportedFinding", "ReportedProgress", "Task"),
    "orchestrator_core.model.settings": ("Settings",),
    "orchestrator_core.model.spec": ("AgentSpec",),
    "orchestrator_core.model.status": ("Status",),
    "orchestrator_core.operations.alerts": ("FailedCleanup",),
    "orchestrator_core.operations.metrics": ("Stats",),
    "orchestrator_core.operations.retention": ("ExportReport", "GcReport"),
    "orchestrator_core.operations.sweeper": ("Health", "Sweeper"),
    "orchestrator_core.orchestrator": ("Orchestrator",),
    "orchestrator_core.presets.result": ("AgentResult", "PermissionDenial", "TokenUsage"),
    "orchestrator_core.reconcile.repair": ("RepairReport",),
    "orchestrator_core.reconcile.sweep.findings": (
        "Finding",
        "FindingKind",
        "ReapResult",
        "SweepReport",
    ),
    "orchestrator_core.saga": ("History", "Observer", "RecoveryReport", "Step", "UnwindReport"),
    "orchestrator_core.system.processes.protocol": ("GracePeriods",),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}
_RENAMED = {"Patience": "GracePeriods", "Reaped": "ReapResult"}

__all__ = [*sorted(_HOME), "__version__"]  # noqa: PLE0604 - a list of strings


def __getattr__(name: str) -> object:
    if name in _RENAMED:
        from orchestrator_core.system.deprecation import warn_renamed  # noqa: PLC0415 - for an old name only

        warn_renamed(f"{__name__}.{name}", f"{__name__}.{_RENAMED[name]}")
        return __getattr__(_RENAMED[name])
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib  # noqa: PLC0415 - for the first use of each name only

    importlib.import_module("orchestrator_core.system.fork")  # Before a fork may meet an import.

    value: object = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
