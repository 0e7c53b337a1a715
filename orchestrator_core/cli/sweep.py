"""``sweep``: tell what is left behind, and end it if asked to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator_core.cli import BUSY, LEFT, OK
from orchestrator_core.cli.printing import Result, printable
from orchestrator_core.exceptions import InvalidInput
from orchestrator_core.orchestrator import Orchestrator

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from orchestrator_core.reconcile.sweep.findings import Finding, SweepReport


def run(arguments: argparse.Namespace) -> Result:
    """Sweep once; or stay, with ``--watch``."""
    _check(arguments)
    if arguments.watch:
        from orchestrator_core.cli import watch  # noqa: PLC0415 - another command, but for its name

        return watch.run(arguments)
    # Nothing is recovered on the way: what there is to be found is to be seen.
    orch = Orchestrator(arguments.root, recover=False)
    report = orch.sweep(reap=arguments.reap, silent_after_s=arguments.silent_after)
    return Result(report.to_dict(), "\n".join(_told(report)), _code(report))


def _check(arguments: argparse.Namespace) -> None:
    if arguments.interval is not None and not arguments.watch:
        raise InvalidInput("--interval is how often to look", hint="give it with --watch")
    silent = arguments.silent_after
    if silent is not None and not silent >= 0:  # NaN among them
        raise InvalidInput(f"--silent-after {silent} is no time", hint="0 or more, in seconds")


def _code(report: SweepReport) -> int:
    if report.left:
        return LEFT
    return BUSY if report.unknown else OK


def _told(report: SweepReport) -> Iterator[str]:
    reaped = {one.finding.key: one for one in report.reaped}
    for finding in report.findings:
        yield f"{finding.kind.value}: {printable(finding.subject)}"
        yield f"  {printable(finding.what)}"
        yield from (f"  proof: {printable(proof)}" for proof in finding.proofs)
        done = reaped.get(finding.key)
        if done is not None:
            yield f"  {'reaped' if done.success else 'NOT reaped'}: {printable(done.message)}"
        else:
            yield f"  {_would_be(finding)}"
    yield from (f"unknown: {printable(what)}" for what in report.unknown)
    yield _in_all(report)


def _would_be(finding: Finding) -> str:
    if finding.reapable:
        return f"reaping it: {finding.action}"
    if finding.action:
        return "left alone: one proof is not enough to end it"
    return "left alone: it is for you to see to"


def _in_all(report: SweepReport) -> str:
    found = len(report.findings)
    told = f"{found} found" if found else "nothing found"
    if not report.dry_run:
        told += f", {found - len(report.left)} reaped, {len(report.left)} left"
    return f"{told}; {len(report.alive)} agents alive"
