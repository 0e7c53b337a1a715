"""``repair``: put registries right by what is known; the difference is shown, or made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from orchestrator_core.cli.printing import Result, printable
from orchestrator_core.orchestrator import Orchestrator

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Mapping

    from orchestrator_core.reconcile.repair import Difference, RegistryRepair, RepairReport

_SIGNS = {"added": "+", "removed": "-", "changed": "~"}


def run(arguments: argparse.Namespace) -> Result:
    """Show what would be changed, or change it."""
    report = Orchestrator(arguments.root, recover=False).repair(
        arguments.task, only_global=arguments.only_global, dry_run=not arguments.yes
    )
    return Result(report.to_dict(), "\n".join(_told(report)), 0 if report.clean else 3)


def _told(report: RepairReport) -> Iterator[str]:
    wrong = [one for one in report.repairs if not one.is_consistent]
    for one in wrong:
        yield from _registry(one)
    right = len(report.repairs) - len(wrong)
    if not wrong:
        yield f"nothing to repair: {right} registries say what is known"
    elif report.dry_run:
        yield f"{len(wrong)} to repair, {right} are right; nothing was changed: --yes does it"
    else:
        failed = sum(bool(one.error) for one in wrong)
        yield f"{len(wrong) - failed} repaired, {failed} not, {right} were right"


def _registry(one: RegistryRepair) -> Iterator[str]:
    state = "it can be read, and is wrong" if one.state == "whole" else one.state
    yield f"{printable(one.registry)}: {state}" + (f", {printable(one.why)}" * bool(one.why))
    if one.kept:
        yield f"  the damaged one is kept as {printable(one.kept)}"
    for difference in one.differences:
        yield from _difference(difference)


def _difference(difference: Difference) -> Iterator[str]:
    yield f"{_SIGNS[difference.kind]} {printable(difference.agent_id or 'the document itself')}"
    for name in dict.fromkeys((*difference.was, *difference.becomes)):
        yield from _field("-", name, difference.was)
        yield from _field("+", name, difference.becomes)


def _field(sign: str, name: str, fields: Mapping[str, Any]) -> Iterator[str]:
    if name in fields:
        value = msgspec.json.encode(fields[name]).decode()
        yield f"    {sign} {printable(name)}: {printable(value)}"
