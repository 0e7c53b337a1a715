"""``doctor``: examine the root and the machine, and say what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator_core.cli.printing import Result, printable
from orchestrator_core.operations.doctor import Check, Verdict, examine

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator


def run(arguments: argparse.Namespace) -> Result:
    """Examine; the root is not opened for it."""
    checks = examine(arguments.root)
    has_failed = any(check.verdict is Verdict.FAILED for check in checks)
    data = {"success": not has_failed, "checks": [check.to_dict() for check in checks]}
    return Result(data, "\n".join(_told(checks)), 1 if has_failed else 0)


def _told(checks: tuple[Check, ...]) -> Iterator[str]:
    width = max(len(check.name) for check in checks)
    for check in checks:
        yield f"{check.verdict.value:7}  {check.name:{width}}  {printable(check.found)}"
        if check.remedy:
            # What is missing from a check that is ok need not be there.
            word = "if wanted" if check.verdict is Verdict.OK else "do"
            yield f"{'':9}{'':{width}}  {word}: {printable(check.remedy)}"
