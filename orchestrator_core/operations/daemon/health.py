"""
The health of a root's sweeper: whether it is alive, responsive and successful.

Service managers ask for it, so the check changes nothing and never waits. The findings of a
sweep are remarks, and do not make the sweeper unhealthy.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import attrs

from orchestrator_core.exceptions import CouldNotAsk, StorageError
from orchestrator_core.operations.daemon import heartbeat
from orchestrator_core.system.json_values import JsonValues
from orchestrator_core.system.processes import identity

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from orchestrator_core.operations.daemon.heartbeat import Heartbeat

_LATE_S = 10.0  #: Beyond two heartbeats, for a busy machine.


@attrs.frozen(kw_only=True)
class Health(JsonValues):
    """The health of a root's sweeper."""

    healthy: bool
    words: str  #: In one sentence.
    problems: tuple[str, ...] = ()  #: Why the sweeper is unhealthy.
    remarks: tuple[str, ...] = ()  #: Other facts, for example findings.
    heartbeat: Heartbeat | None = None


def health(root: Path) -> Health:
    """Return the health of the sweeper of *root*. Never raise for what is found there."""
    beat = None
    try:
        beat = heartbeat.read(root)
        if beat is None:
            return _unhealthy(f"no sweeper has run on {root}", None)
        is_alive = identity.is_alive(beat.who)
    except (StorageError, CouldNotAsk) as error:
        return _unhealthy(str(error), beat)
    if not is_alive:
        state = "stopped on request, at" if beat.is_stopped else "is dead; its last heartbeat was"
        return _unhealthy(f"the sweeper (pid {beat.pid}) {state} {beat.beat_at}", beat)
    problems = tuple(_problems(beat, time.monotonic()))
    return Health(
        healthy=not problems,
        words=f"the sweeper (pid {beat.pid}) {'is unhealthy' if problems else _activity(beat)}",
        problems=problems,
        remarks=tuple(_remarks(beat)),
        heartbeat=beat,
    )


def _unhealthy(problem: str, beat: Heartbeat | None) -> Health:
    return Health(healthy=False, words=problem, problems=(problem,), heartbeat=beat)


def _problems(beat: Heartbeat, now: float) -> Iterator[str]:
    age_s = now - beat.beat_monotonic
    if beat.is_stopped:  # In a server that goes on.
        yield f"it stopped on request, at {beat.beat_at}"
    elif age_s > 2 * beat.beats_every_s + _LATE_S:
        yield f"no heartbeat for {age_s:.0f} s; one is due every {beat.beats_every_s:g} s"
    if beat.errors_in_a_row:
        yield f"the last {beat.errors_in_a_row} of its sweeps failed: {beat.last_error}"
    yield from (f"{name} has run for {for_s:g} s, and goes on" for name, for_s in beat.hung.items())


def _activity(beat: Heartbeat) -> str:
    state = "its first sweep is running"
    if beat.last_sweep is not None:
        state = f"it swept in {beat.last_sweep.duration_ms:.0f} ms, at {beat.last_sweep.at}"
    return f"watches {beat.watched} agents; {state}"


def _remarks(beat: Heartbeat) -> Iterator[str]:
    if not beat.has_file_events:
        yield "it has no file events: only the next sweep finds new agents"
    if (last := beat.last_sweep) is not None:
        yield from last.told
        if more := sum(last.findings.values()) - len(last.told):
            yield f"and {more} more findings"
        yield from (f"could not ask: {what}" for what in last.unknown)
