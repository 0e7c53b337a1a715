"""``stats``: how cleaning up has gone, for people, programs and Prometheus."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator_core.cli.printing import Result, printable
from orchestrator_core.orchestrator import Orchestrator

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from orchestrator_core.operations.metrics import Stats


def run(arguments: argparse.Namespace) -> Result:
    """Count, and change nothing."""
    orch = Orchestrator(arguments.root, recover=False)
    stats = orch.stats()
    if arguments.format == "json":
        arguments.json = True
    if arguments.format == "prometheus":
        from orchestrator_core.operations.metrics.exposition import format_stats  # noqa: PLC0415 - for one form

        return Result(stats.to_dict(), format_stats(stats).removesuffix("\n"))
    damaged = (
        f"{each['registry']} was damaged, and is kept as {each['kept']}: what it remembered "
        "is not counted"
        for each in orch.damaged
    )
    return Result(stats.to_dict(), "\n".join((*_told(stats), *map(printable, damaged))))


def _told(stats: Stats) -> Iterator[str]:
    rate = "" if stats.success_rate is None else f", {stats.success_rate:.1%} with nothing left"
    yield f"{stats.total} cleanups{rate}, {stats.bytes_freed} bytes freed"
    yield from (
        f"  {row.count:>6}  {printable(row.reason)}: {row.outcome}" for row in stats.cleanups
    )
    if stats.p50_ms is not None:
        yield (
            f"they took {stats.p50_ms:.3g} ms (p50), {stats.p95_ms:.3g} ms (p95), "
            f"{stats.p99_ms:.3g} ms (p99), {stats.max_ms:.3g} ms at most"
        )
    yield from (
        f"  {row.found:>6}  found by sweeps: {row.kind}, {row.reaped} reaped"
        for row in stats.leftovers
    )
    live = "an unknown number of" if stats.agents_live is None else str(stats.agents_live)
    states = ", ".join(f"{count} {state}" for state, count in stats.sagas.items() if count)
    yield f"{live} agents live; open sagas: {states or 'none'}"
    yield from (f"{saga_id}: STUCK" for saga_id in stats.stuck)
    yield from (f"{saga_id}: its journal cannot be read" for saga_id in stats.unreadable)
