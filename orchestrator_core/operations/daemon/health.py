"""
Health: whether a root's sweeper is alive, awake and getting somewhere.

Asked by service managers, so it opens nothing, changes nothing and waits for
nothing. That a sweep has *found* something is no illness of the sweeper's: it
is told, and the answer stays "healthy".
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import attrs

from orchestrator_core.exceptions import CouldNotAsk, StorageError
from orchestrator_core.operations.daemon import heartbeat
from orchestrator_core.system.processes import identity

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator_core.operations.daemon.heartbeat import Heartbeat

_LATE_S = 10.0  #: A busy machine's allowance, beyond two heartbeats.


@attrs.frozen(kw_only=True)
class Health:
    """How a root's sweeper is."""

    healthy: bool
    words: str  #: In one sentence.
    problems: tuple[str, ...] = ()  #: Why it is not healthy.
    remarks: tuple[str, ...] = ()  #: What else there is to know: findings, for one.
    heartbeat: Heartbeat | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-safe values."""
        told = {"healthy": self.healthy, "words": self.words}
        lists = {"problems": list(self.problems), "remarks": list(self.remarks)}
        beat = self.heartbeat
        return {**told, **lists, "heartbeat": None if beat is None else beat.to_dict()}


def health(root: Path) -> Health:
    """Tell how the sweeper of *root* is. Never raises for what it finds."""
    try:
        beat = heartbeat.read(root)
    except StorageError as error:
        return _ill(str(error))
    if beat is None:
        return _ill(f"no sweeper has run on {root}")
    try:
        alive = identity.is_alive(beat.who)
    except CouldNotAsk as error:
        return _ill(str(error), beat)
    return judge(beat, alive=alive, now=time.monotonic())


def judge(beat: Heartbeat, *, alive: bool, now: float) -> Health:
    """Tell what a heartbeat means, given whether its process is *alive*."""
    if not alive:
        how = "ended as it was told, at" if beat.is_stopped else "is dead; its heart last beat at"
        return _ill(f"the sweeper (pid {beat.pid}) {how} {beat.beat_at}", beat)
    problems = [*_silent(beat, now), *_unsuccessful(beat)]
    problems += [f"{what} has taken {for_s:g} s, and goes on" for what, for_s in beat.hung.items()]
    if problems:
        return _ill(f"the sweeper (pid {beat.pid}) is not well", beat, *problems)
    return Health(healthy=True, words=_well(beat), remarks=tuple(_remarks(beat)), heartbeat=beat)


def _silent(beat: Heartbeat, now: float) -> list[str]:
    if beat.is_stopped:  # In a server that lives on.
        return [f"it ended as it was told, at {beat.beat_at}"]
    age_s = now - beat.beat_monotonic
    if age_s <= 2 * beat.beats_every_s + _LATE_S:
        return []
    return [f"its heart has not beaten for {age_s:.0f} s, and should every {beat.beats_every_s:g}"]


def _unsuccessful(beat: Heartbeat) -> list[str]:
    if not beat.errors_in_a_row:
        return []
    return [f"the last {beat.errors_in_a_row} of its sweeps failed: {beat.last_error}"]


def _ill(words: str, beat: Heartbeat | None = None, *problems: str) -> Health:
    remarks = tuple(_remarks(beat)) if problems and beat is not None else ()
    return Health(
        healthy=False,
        words=words,
        problems=problems or (words,),
        remarks=remarks,
        heartbeat=beat,
    )


def _well(beat: Heartbeat) -> str:
    did = "its first sweep is under way"
    if beat.last_sweep is not None:
        did = f"it swept in {beat.last_sweep.duration_ms:.0f} ms, at {beat.last_sweep.at}"
    return f"the sweeper (pid {beat.pid}) watches {beat.watched} agents; {did}"


def _remarks(beat: Heartbeat) -> list[str]:
    remarks = []
    if not beat.has_file_events:
        remarks.append("it has no file events: new agents are noticed by the next sweep only")
    last = beat.last_sweep
    if last is not None:
        remarks += last.told
        left = sum(last.findings.values()) - len(last.told)
        remarks += [f"and {left} findings more"] if left else []
        remarks += [f"could not ask: {what}" for what in last.unknown]
    return remarks
