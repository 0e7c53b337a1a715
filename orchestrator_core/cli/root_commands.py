"""Commands that keep a root in order: ``approve``, ``doctor``, ``export``, ``gc`` and so on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from orchestrator_core.cli import FAILED, LEFT, OK
from orchestrator_core.cli.printing import CommandResult, as_text, printable
from orchestrator_core.orchestrator import Orchestrator

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from orchestrator_core.operations.doctor import Check
    from orchestrator_core.operations.metrics import Stats
    from orchestrator_core.operations.retention import GcReport
    from orchestrator_core.reconcile.repair import Difference, RegistryRepair, RepairReport

_SIGNS = {"added": "+", "removed": "-", "changed": "~"}


# --- doctor ------------------------------------------------------------------------------------


def doctor(arguments: argparse.Namespace) -> CommandResult:
    """Check the root and the machine, without opening the root."""
    from orchestrator_core.operations.doctor import Verdict, examine  # noqa: PLC0415 - for one command

    checks = examine(arguments.root)
    has_failed = any(check.verdict is Verdict.FAILED for check in checks)
    data = {"success": not has_failed, "checks": [check.to_dict() for check in checks]}
    width = max(len(check.name) for check in checks)
    lines = [line for check in checks for line in _format_check(check, width)]
    return CommandResult(data, as_text(lines), FAILED if has_failed else OK)


def _format_check(check: Check, width: int) -> Iterator[str]:
    yield f"{check.verdict.value:7}  {check.name:{width}}  {printable(check.found)}"
    if check.remedy:
        # A check that is ok has a remedy for an optional part that is missing.
        word = "if wanted" if check.verdict.value == "ok" else "do"
        yield f"{'':9}{'':{width}}  {word}: {printable(check.remedy)}"


# --- approve -------------------------------------------------------------------------------------


def approve(arguments: argparse.Namespace) -> CommandResult:
    """Show the commands and modules of the root's settings that do not count, or approve them."""
    orch = Orchestrator(arguments.root, create=False, recover=False)
    sections = orch.approve_settings(dry_run=not arguments.yes)
    data = {"success": arguments.yes or not sections, "sections": sections}
    if not sections:
        return CommandResult(data, "nothing to approve")
    lines = []
    for name, values in sections.items():
        lines.append(f"[{printable(name)}]")
        lines += [
            f"{printable(key)} = {printable(msgspec.json.encode(value).decode())}"
            for key, value in values.items()
        ]
    lines.append("approved" if arguments.yes else "nothing was approved: --yes does it")
    return CommandResult(data, "\n".join(lines), OK if arguments.yes else LEFT)


# --- export and gc -------------------------------------------------------------------------------


def export(arguments: argparse.Namespace) -> CommandResult:
    """Write one finished task into one file."""
    orch = Orchestrator(arguments.root, create=False, recover=False)
    report = orch.export_task(arguments.task, arguments.file, remove=arguments.remove)
    lines = [
        f"{report.task_id}: {report.files} files, {len(report.journals)} of them journals, "
        f"{report.bytes} bytes, in {report.target}" + (", and removed" if report.removed else "")
    ]
    lines += [f"not in it, a socket: {printable(name)}" for name in report.skipped]
    lines += [f"still to be removed: {printable(path)}" for path in report.left]
    return CommandResult(report.to_dict(), as_text(lines), LEFT if report.left else OK)


def gc(arguments: argparse.Namespace) -> CommandResult:
    """Remove and compress what the settings allow, or list it."""
    report = Orchestrator(arguments.root, create=False, recover=False).gc(dry_run=arguments.dry_run)
    return CommandResult(
        report.to_dict(), as_text(_format_gc(report)), LEFT if report.failed else OK
    )


def _format_gc(report: GcReport) -> Iterator[str]:
    removed = "would go" if report.dry_run else "gone"
    for item in (*report.removed, *report.journals):
        yield f"{removed} ({item.why}): {printable(item.path)}, {item.bytes} bytes"
    for item in report.compressed:
        if report.dry_run:
            yield f"would be compressed: {printable(item.path)}, {item.bytes} bytes"
        else:
            yield f"compressed: {printable(item.path)}, {item.freed} of {item.bytes} bytes freed"
    yield from (f"failed: {printable(why)}" for why in report.failed)
    yield (
        f"{len(report.removed)} files and {len(report.journals)} journals {removed}, "
        f"{len(report.compressed)} compressed, {report.bytes_freed} bytes freed, "
        f"{report.held} files in use by agents whose sagas are open"
    )


# --- repair --------------------------------------------------------------------------------------


def repair(arguments: argparse.Namespace) -> CommandResult:
    """Show the differences between registries and journals, or correct the registries."""
    report = Orchestrator(arguments.root, create=False, recover=False).repair(
        arguments.task, only_global=arguments.only_global, dry_run=not arguments.yes
    )
    return CommandResult(
        report.to_dict(), as_text(format_repair(report)), OK if report.clean else LEFT
    )


def format_repair(report: RepairReport) -> Iterator[str]:
    """Yield the lines of a repair: each inconsistent registry, then the totals."""
    wrong = [each for each in report.repairs if not each.is_consistent]
    for each in wrong:
        yield from _format_registry(each)
    right = len(report.repairs) - len(wrong)
    if not wrong:
        yield f"nothing to repair: {right} registries agree with the journals"
    elif report.dry_run:
        yield f"{len(wrong)} to repair, {right} are right; nothing was changed: --yes does it"
    else:
        failed = sum(bool(each.error) for each in wrong)
        yield f"{len(wrong) - failed} repaired, {failed} not, {right} were right"


def _format_registry(repair: RegistryRepair) -> Iterator[str]:
    state = "it can be read, and is wrong" if repair.state == "whole" else repair.state
    why = f", {printable(repair.why)}" if repair.why else ""
    yield f"{printable(repair.registry)}: {state}{why}"
    if repair.kept:
        yield f"  the damaged one is kept as {printable(repair.kept)}"
    for difference in repair.differences:
        yield from _format_difference(difference)


def _format_difference(difference: Difference) -> Iterator[str]:
    yield f"{_SIGNS[difference.kind]} {printable(difference.agent_id or 'the document itself')}"
    for name in dict.fromkeys((*difference.was, *difference.becomes)):
        for sign, fields in (("-", difference.was), ("+", difference.becomes)):
            if name in fields:
                value = msgspec.json.encode(fields[name]).decode()
                yield f"    {sign} {printable(name)}: {printable(value)}"


# --- stats ---------------------------------------------------------------------------------------


def stats(arguments: argparse.Namespace) -> CommandResult:
    """Count, and change nothing."""
    orch = Orchestrator(arguments.root, create=False, recover=False)
    counts = orch.stats()
    if arguments.format == "json":
        arguments.json = True
    if arguments.format == "prometheus":
        from orchestrator_core.operations.metrics.exposition import format_stats  # noqa: PLC0415 - for one form

        return CommandResult(counts.to_dict(), format_stats(counts).removesuffix("\n"))
    damaged = [
        printable(
            f"{each['registry']} was damaged, and is kept as {each['kept']}: its counts are missing"
        )
        for each in orch.damaged
    ]
    return CommandResult(counts.to_dict(), as_text((*_format_stats(counts), *damaged)))


def _format_stats(stats: Stats) -> Iterator[str]:
    rate = "" if stats.success_rate is None else f", {stats.success_rate:.1%} with nothing left"
    yield f"{stats.total} cleanups{rate}, {stats.bytes_freed} bytes freed"
    for cleanup in stats.cleanups:
        yield f"  {cleanup.count:>6}  {printable(cleanup.reason)}: {cleanup.outcome}"
    if stats.p50_ms is not None:
        yield (
            f"they took {stats.p50_ms:.3g} ms (p50), {stats.p95_ms:.3g} ms (p95), "
            f"{stats.p99_ms:.3g} ms (p99), {stats.max_ms:.3g} ms at most"
        )
    for kind in stats.leftovers:
        yield f"  {kind.found:>6}  found by sweeps: {kind.kind}, {kind.reaped} reaped"
    live = "an unknown number of" if stats.agents_live is None else str(stats.agents_live)
    states = ", ".join(f"{count} {state}" for state, count in stats.sagas.items() if count)
    yield f"{live} agents live; open sagas: {states or 'none'}"
    yield from (f"{saga_id}: STUCK" for saga_id in stats.stuck)
    yield from (f"{saga_id}: its journal cannot be read" for saga_id in stats.unreadable)
