"""
The heartbeat: the last known state of a sweeper, in ``registry/sweeper.json``.

- Each write replaces the file atomically, so a reader sees a complete heartbeat.
- The file is not synced: after a power failure there is no sweeper that it could describe.
- The age is by the monotonic clock, so that a change of the time of day has no effect.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import msgspec

from orchestrator_core.exceptions import StorageError
from orchestrator_core.system import durable
from orchestrator_core.system.json_values import JsonValues
from orchestrator_core.system.processes.protocol import Identity

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator_core.reconcile.sweep.findings import SweepReport

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

    @property
    def who(self) -> Identity:
        """The identity of the sweeper's process."""
        return Identity(self.boot_id, self.pid, self.started)


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
