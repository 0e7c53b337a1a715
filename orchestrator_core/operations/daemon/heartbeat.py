"""
The heartbeat: what a sweeper last knew of itself, in ``registry/sweeper.json``.

It is replaced in one instant, so that a reader sees a whole one; and it is not
seen to the disk, for after a power failure there is no sweeper that it could
tell of. Its age is told by the monotonic clock: setting the time of day makes
nobody look dead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import msgspec

from orchestrator_core.exceptions import StorageError
from orchestrator_core.system import durable
from orchestrator_core.system.processes.protocol import Identity

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator_core.reconcile.sweep.findings import SweepReport

NAME = "sweeper.json"

_TOLD = 20  #: Findings that are told one by one; of the rest, only how many.


@attrs.frozen(kw_only=True)
class LastSweep:
    """What the last sweep came to."""

    at: str  #: When it ended.
    duration_ms: float
    error: str | None = None  #: Why it failed; the fields below are then those of no sweep.
    findings: dict[str, int] = attrs.field(factory=dict)  #: How many are left, by kind.
    told: tuple[str, ...] = ()  #: The first of them, in words.
    unknown: tuple[str, ...] = ()  #: What could not be asked.
    reaped: int = 0


@attrs.frozen(kw_only=True)
class Heartbeat:
    """A sweeper, as it was when its heart last beat."""

    pid: int
    boot_id: str
    started: int  #: What tells this process from others that get its pid.
    version: str
    started_at: str
    beat_at: str
    beat_monotonic: float
    beats_every_s: float
    interval_s: float  #: Between two sweeps, if nothing wakes it.
    is_stopped: bool = False  #: It was told to end, and has.
    has_file_events: bool = True  #: Without, new agents are noticed by the next sweep only.
    watched: int = 0  #: Living agents whose death it will notice.
    reactions: int = 0  #: Ends that it has carried out, or tried to, when something woke it.
    sweeps: int = 0
    errors: int = 0  #: Of sweeps and of reactions, since it was started.
    errors_in_a_row: int = 0  #: Sweeps that have failed, one after another, up to now.
    last_error: str | None = None
    last_sweep: LastSweep | None = None
    hung: dict[str, float] = attrs.field(factory=dict)  #: What takes too long, and seconds.

    @property
    def who(self) -> Identity:
        """The sweeper's process."""
        return Identity(self.boot_id, self.pid, self.started)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-safe values."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return plain


def file_of(root: Path) -> Path:
    """Return where a root's heartbeat is."""
    return root / "registry" / NAME


def write(root: Path, beat: Heartbeat) -> None:
    """
    Let others read it from now on.

    Raises:
        StorageError: Refused; they read the last one.
    """
    data = msgspec.json.format(msgspec.json.encode(beat), indent=2) + b"\n"
    durable.replace_unsynced(file_of(root), data, durable=False)


def read(root: Path) -> Heartbeat | None:
    """
    Return a root's heartbeat; None if no sweeper has ever run there.

    Raises:
        StorageError: It cannot be read, or is none.
    """
    path = file_of(root)
    try:
        return msgspec.json.decode(durable.read(path), type=Heartbeat)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        raise StorageError(
            f"{path} is no heartbeat: {error}", hint="remove it: a sweeper writes it anew"
        ) from error


def swept(report: SweepReport, *, at: str) -> LastSweep:
    """Return what is to be told of a sweep that has a report."""
    left = report.left
    kinds = [finding.kind.value for finding in left]
    return LastSweep(
        at=at,
        duration_ms=report.duration_ms,
        findings={kind: kinds.count(kind) for kind in dict.fromkeys(kinds)},
        told=tuple(f"{finding.kind.value}: {finding.what}" for finding in left[:_TOLD]),
        unknown=tuple(report.unknown[:_TOLD]),
        reaped=sum(one.success for one in report.reaped),
    )
