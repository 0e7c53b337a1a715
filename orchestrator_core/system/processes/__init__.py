"""
Processes: whose they are, whether they live, and how all of an agent's are ended.

:mod:`.protocol` says what is promised, :class:`LocalProcesses` keeps it on this
machine. Below it: :mod:`.identity` (who is it), :mod:`.table` (all of them),
:mod:`.ownership` (which are the agent's), :mod:`.termination` (end them, and prove it).
"""

from __future__ import annotations

from orchestrator_core.system.processes.exit_record import read_exit_record
from orchestrator_core.system.processes.local import LocalProcesses
from orchestrator_core.system.processes.protocol import (
    ExitRecord,
    GracePeriods,
    Identity,
    OwnershipSelector,
    Processes,
    Survivor,
    TaggedProcess,
    TerminationResult,
    WatchResult,
)

__all__ = [
    "ExitRecord",
    "GracePeriods",
    "Identity",
    "LocalProcesses",
    "OwnershipSelector",
    "Processes",
    "Survivor",
    "TaggedProcess",
    "TerminationResult",
    "WatchResult",
    "read_exit_record",
]
