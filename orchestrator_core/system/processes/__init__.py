"""
Processes: their identities, their owners, their termination and its proof.

:mod:`.protocol` is what a deployment needs; :class:`LocalProcesses` implements it on this
machine. Below it: :mod:`.identity` (one process), :mod:`.table` (all processes),
:mod:`.ownership` (an agent's processes), :mod:`.termination` (their end, and the proof).
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
