"""``gc``: let go of what was kept for long enough."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator_core.cli.printing import Result, printable
from orchestrator_core.orchestrator import Orchestrator

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from orchestrator_core.operations.retention import GcReport


def run(arguments: argparse.Namespace) -> Result:
    """Collect, or tell what would be."""
    report = Orchestrator(arguments.root, recover=False).gc(dry_run=arguments.dry_run)
    code = 3 if report.failed else 0
    return Result(report.to_dict(), "\n".join(_told(report)), code)


def _told(report: GcReport) -> Iterator[str]:
    goes = "would go" if report.dry_run else "gone"
    yield from (
        f"{goes} ({item.why}): {printable(item.path)}, {item.bytes} bytes"
        for item in (*report.removed, *report.journals)
    )
    for item in report.compressed:
        if report.dry_run:
            yield f"would be compressed: {printable(item.path)}, {item.bytes} bytes"
        else:
            yield f"compressed: {printable(item.path)}, {item.freed} of {item.bytes} bytes freed"
    yield from (f"failed: {printable(why)}" for why in report.failed)
    yield (
        f"{len(report.removed)} files and {len(report.journals)} journals {goes}, "
        f"{len(report.compressed)} compressed, {report.bytes_freed} bytes freed, "
        f"{report.held} files held by agents that are not over"
    )
