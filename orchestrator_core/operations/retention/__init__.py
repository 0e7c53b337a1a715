"""
The past, kept within bounds: how long, how many, how much, as the root's owner has settled it.

Two things are done with it. A *collection* removes what is too old or too much,
and compresses the rest (:mod:`~orchestrator_core.operations.retention.collect`). An
*export* writes a whole task into one tar file, and may take it away
(:mod:`~orchestrator_core.operations.retention.exporting`). Neither touches what belongs to
an agent that is not over; neither follows a link.
"""

from __future__ import annotations

from orchestrator_core.operations.retention.retention_report import (
    ExportReport,
    GcItem,
    GcReport,
    TaskTotals,
)

__all__ = ["ExportReport", "GcItem", "GcReport", "TaskTotals"]
