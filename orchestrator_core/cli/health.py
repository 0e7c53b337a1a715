"""``health``: whether the root's resident sweeper is alive and well."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator_core.cli.printing import Result, printable
from orchestrator_core.model.layout import find_root
from orchestrator_core.operations.daemon.health import health

if TYPE_CHECKING:
    import argparse

_FAILED = 1


def run(arguments: argparse.Namespace) -> Result:
    """Tell; exit status 0 if it is, 1 if not. Touches nothing."""
    root, _ = find_root(arguments.root)
    found = health(root)
    head = f"{'healthy' if found.healthy else 'NOT healthy'}: {found.words}"
    more = [problem for problem in found.problems if problem != found.words]
    lines = [head, *more, *found.remarks]
    text = "\n  ".join(printable(line) for line in lines)
    return Result(found.to_dict(), text, 0 if found.healthy else _FAILED)
