"""``export``: one finished task, whole, in one file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator_core.cli.printing import Result, printable
from orchestrator_core.orchestrator import Orchestrator

if TYPE_CHECKING:
    import argparse


def run(arguments: argparse.Namespace) -> Result:
    """Export one task."""
    orch = Orchestrator(arguments.root, recover=False)
    report = orch.export_task(arguments.task, arguments.file, remove=arguments.remove)
    lines = [
        f"{report.task_id}: {report.files} files, {len(report.journals)} of them journals, "
        f"{report.bytes} bytes, in {report.target}" + (", and removed" if report.removed else "")
    ]
    lines += [f"not in it, a socket: {printable(name)}" for name in report.skipped]
    lines += [f"still to be removed: {printable(what)}" for what in report.left]
    return Result(report.to_dict(), "\n".join(lines), 3 if report.left else 0)
