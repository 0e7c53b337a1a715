"""
The heartbeat: the last known state of a sweeper, in ``registry/sweeper.json``; and its health.

- Each write replaces the file atomically, so a reader sees a complete heartbeat.
- The file is not synced: after a power failure there is no sweeper that it could describe.
- The age is by the monotonic clock, so that a change of the time of day has no effect.

The health is derived from the heartbeat: whether the sweeper is alive, responsive and
successful. Service managers ask for it, so the check changes nothing and never waits. The
findings of a sweep are remarks, and do not make the sweeper unhealthy.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import attrs
import msgspec

from orchestrator_core.exceptions import CouldNotAsk, StorageError
from orchestrator_core.system import durable
from orchestrator_core.system.json_values import JsonValues
from orchestrator_core.system.processes import identity
from orchestrator_core.system.processes.protocol import Identity

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from orchestrator_core.reconcile.sweep.findings import SweepReport

_LATE_S = 10.0  #: Beyond two heartbeats, for a busy machine.
_MAX_MESSAGES = 20  #: Findings and unknowns in a heartbeat; of the rest, only the number.


@attrs.frozen(kw_only=True)
class LastSweep:
    """The result of the last sweep."""

    at: str  #: When it ended.
    duration_ms: float
    error: str | None = None  #: Why it failed; the fields below are then empty.
    findings: dict[str, int] = attrs.field(factory=dict)  #: How many are left, by kind.
    told: tuple[str, ...] = ()  #: The messages of the first findings.
    unknown: tuple[str, ...] = ()  #: What the sweep could not find out.
    reaped: int = 0


@attrs.frozen(kw_only=True)
class Heartbeat(JsonValues):
    """The state of a sweeper at its last write."""

    pid: int
    boot_id: str
    started: int  #: The start time, which distinguishes processes with the same pid.
    version: str
    started_at: str
    beat_at: str
    beat_monotonic: float
    beats_every_s: float
    interval_s: float  #: Between two sweeps, if no event causes one.
    is_stopped: bool = False  #: The sweeper has stopped on request.
    has_file_events: bool = True  #: If not, only the next sweep finds new agents.
    watched: int = 0  #: Live agents whose exit the sweeper will notice.
    reactions: int = 0  #: Recoveries that events have caused.
    sweeps: int = 0
    errors: int = 0  #: Of sweeps and of reactions, since the start.
    errors_in_a_row: int = 0  #: Sweeps that have failed, one after another, up to now.
    last_error: str | None = None
    last_sweep: LastSweep | None = None
    hung: dict[str, float] = attrs.field(factory=dict)  #: Hung jobs, and seconds.
    pid_ns: int | None = None  #: The namespaces in which pid and start time are valid.
    time_ns: int | None = None

    @property
    def who(self) -> Identity:
        """The identity of the sweeper's process."""
        return Identity(self.boot_id, self.pid, self.started, self.pid_ns, self.time_ns)


def file_of(root: Path) -> Path:
    """Return the path of a root's heartbeat."""
    return root / "registry" / "sweeper.json"


def write(root: Path, beat: Heartbeat) -> None:
    """
    Replace the heartbeat of *root*.

    Raises:
        StorageError: The write failed; readers still see the last heartbeat.
    """
    data = msgspec.json.format(msgspec.json.encode(beat), indent=2) + b"\n"
    durable.replace_unsynced(file_of(root), data, durable=False)


def read(root: Path) -> Heartbeat | None:
    """
    Return the heartbeat of *root*; None if no sweeper has ever run there.

    Raises:
        StorageError: The file cannot be read, or is no heartbeat.
    """
    path = file_of(root)
    try:
        return msgspec.json.decode(durable.read(path), type=Heartbeat)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        raise StorageError(
            f"{path} is no heartbeat: {error}", hint="remove it: a sweeper writes a new one"
        ) from error


def summarize(report: SweepReport, *, at: str) -> LastSweep:
    """Return the part of the heartbeat that describes a sweep with a report."""
    left = report.left
    kinds = [finding.kind.value for finding in left]
    return LastSweep(
        at=at,
        duration_ms=report.duration_ms,
        findings={kind: kinds.count(kind) for kind in dict.fromkeys(kinds)},
        told=tuple(f"{finding.kind.value}: {finding.what}" for finding in left[:_MAX_MESSAGES]),
        unknown=tuple(report.unknown[:_MAX_MESSAGES]),
        reaped=sum(one.success for one in report.reaped),
    )


# --- health ---------------------------------------------------------------------------------------


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
        beat = read(root)
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
