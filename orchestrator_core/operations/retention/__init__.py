"""
Retention: remove old files by the age, number and size that the root's settings allow.

A *collection* removes what is too old or too much, and compresses the rest
(:mod:`~orchestrator_core.operations.retention.collect`). An *export* writes a whole task
into one tar file, and can remove the task afterwards
(:mod:`~orchestrator_core.operations.retention.exporting`). Neither touches the files of an
agent that has not ended, and neither follows a link.
"""

from __future__ import annotations

from orchestrator_core.operations.retention.retention_report import (
    ExportReport,
    GcItem,
    GcReport,
    TaskTotals,
)

__all__ = ["ExportReport", "GcItem", "GcReport", "TaskTotals"]
