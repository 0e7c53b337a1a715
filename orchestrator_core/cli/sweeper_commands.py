"""Commands of the sweeper: ``sweep``, once or resident, its ``health``, and ``service``."""

from __future__ import annotations

import logging
import os
import signal
import sys
from typing import TYPE_CHECKING

from orchestrator_core.cli import BUSY, FAILED, LEFT, OK, printing
from orchestrator_core.cli.printing import CommandResult, as_text, printable
from orchestrator_core.exceptions import InvalidInput
from orchestrator_core.model.layout import find_root, open_root
from orchestrator_core.orchestrator import Orchestrator

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from orchestrator_core.reconcile.sweep.findings import Finding, SweepReport


# --- sweep ---------------------------------------------------------------------------------------


def sweep(arguments: argparse.Namespace) -> CommandResult:
    """Sweep once, or with ``--watch`` until a signal."""
    _check(arguments)
    if arguments.watch:
        return _watch(arguments)
    # A recovery would end leftovers that the sweep is to show.
    orch = Orchestrator(arguments.root, create=False, recover=False)
    report = orch.sweep(reap=arguments.reap, silent_after_s=arguments.silent_after)
    code = LEFT if report.left else BUSY if report.unknown else OK
    return CommandResult(report.to_dict(), as_text(_format_sweep(report)), code)


def _check(arguments: argparse.Namespace) -> None:
    if arguments.interval is not None and not arguments.watch:
        raise InvalidInput("--interval is given without --watch", hint="add --watch")
    silent = arguments.silent_after
    if silent is not None and not silent >= 0:  # NaN is not, either.
        raise InvalidInput(
            f"--silent-after {silent} is not a duration", hint="give seconds, 0 or more"
        )


def _format_sweep(report: SweepReport) -> Iterator[str]:
    reaped = {result.finding.key: result for result in report.reaped}
    for finding in report.findings:
        yield f"{finding.kind.value}: {printable(finding.subject)}"
        yield f"  {printable(finding.what)}"
        yield from (f"  proof: {printable(proof)}" for proof in finding.proofs)
        result = reaped.get(finding.key)
        if result is None:
            yield f"  {_format_action(finding)}"
        else:
            word = "reaped" if result.success else "NOT reaped"
            yield f"  {word}: {printable(result.message)}"
    yield from (f"unknown: {printable(subject)}" for subject in report.unknown)
    yield _format_totals(report)


def _format_action(finding: Finding) -> str:
    if finding.reapable:
        return f"reaping it: {finding.action}"
    if finding.action:
        return "left alone: one proof is not enough to end it"
    return "left alone: it needs your decision"


def _format_totals(report: SweepReport) -> str:
    count = len(report.findings)
    found = f"{count} found" if count or report.unknown else "nothing found"
    if not report.dry_run:
        found += f", {count - len(report.left)} reaped, {len(report.left)} left"
    unknown = f"; {len(report.unknown)} unknown, left alone" if report.unknown else ""
    return f"{found}; {len(report.alive)} agents alive{unknown}"


# --- the resident sweeper ------------------------------------------------------------------------


def _watch(arguments: argparse.Namespace) -> CommandResult:
    """Be the root's resident sweeper; SIGTERM and Ctrl-C end it within 1 s, with success."""
    from orchestrator_core.operations.daemon.service import ServiceManager  # noqa: PLC0415 - for one option
    from orchestrator_core.operations.sweeper import Sweeper  # noqa: PLC0415 - for one option

    if not arguments.verbose:
        printing.log_to_stderr(logging.WARNING)
    # The first sweep recovers, so that leftovers do not delay the start.
    sweeper = Sweeper(
        Orchestrator(arguments.root, recover=False),
        interval_s=arguments.interval,
        silent_after_s=arguments.silent_after,
        manager=ServiceManager.from_environment(os.environ),
    )
    with sweeper.stop_on_signals(signal.SIGTERM, signal.SIGINT):
        sweeper.run()
    return CommandResult(sweeper.health().to_dict(), "stopped by a signal")


def health(arguments: argparse.Namespace) -> CommandResult:
    """Report whether the resident sweeper runs and works; exit code 0 if so. Opens no root."""
    from orchestrator_core.operations.daemon import heartbeat  # noqa: PLC0415 - for one command

    report = heartbeat.health(find_root(arguments.root)[0])
    head = f"{'healthy' if report.healthy else 'NOT healthy'}: {report.words}"
    problems = [problem for problem in report.problems if problem != report.words]
    text = "\n  ".join(map(printable, (head, *problems, *report.remarks)))
    return CommandResult(report.to_dict(), text, OK if report.healthy else FAILED)


def service(arguments: argparse.Namespace) -> CommandResult:
    """Print the service definition for this root and this interpreter."""
    from orchestrator_core.operations.daemon.service import Service  # noqa: PLC0415 - for one command

    root = open_root(arguments.root)
    definition = Service(root=root.layout.root, root_id=root.root_id)
    manager = arguments.manager or ("launchd" if sys.platform == "darwin" else "systemd")
    text = definition.launchd() if manager == "launchd" else definition.systemd()
    data = {"manager": manager, "name": definition.name, "argv": definition.argv, "text": text}
    return CommandResult(data, text.rstrip("\n"))
