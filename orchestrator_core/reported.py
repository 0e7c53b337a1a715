"""
What agents have reported, read back, wherever it is by now.

Each agent appends to files of its own while it lives; after that they are in its task's
archive, and retention may have compressed them. A line that is torn, because its writer was
killed, is passed over.
"""

from __future__ import annotations

import datetime as dt
import heapq
import os
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
import msgspec

from orchestrator_core.exceptions import StorageError
from orchestrator_core.kept import GZ, read_kept

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from orchestrator_core.places import Places

T = TypeVar("T", "ReportedFinding", "ReportedProgress")


@attrs.frozen(kw_only=True)
class ReportedFinding:
    """Something that an agent has found."""

    timestamp: str
    agent_id: str
    finding_type: str
    severity: str
    message: str
    data: Any = None

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-safe values."""
        return attrs.asdict(self, recurse=False)


@attrs.frozen(kw_only=True)
class ReportedProgress:
    """How far an agent said that it was."""

    timestamp: str
    agent_id: str
    status: str
    progress: int | None  #: In percent; None if it did not say.
    message: str

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-safe values."""
        return attrs.asdict(self, recurse=False)


def findings(
    places: Places, task_id: str, agent_id: str | None, *, last: int | None
) -> list[ReportedFinding]:
    """Return what was found, oldest first; see :meth:`Orchestrator.read_findings`."""
    return _reported(places, task_id, agent_id, "findings", _finding, last)


def progress(
    places: Places, task_id: str, agent_id: str | None, *, last: int | None
) -> list[ReportedProgress]:
    """Return the reports of progress, oldest first; see :meth:`Orchestrator.read_progress`."""
    return _reported(places, task_id, agent_id, "progress", _progress, last)


def moment(timestamp: str) -> float:
    """Return when that was, in seconds since 1970; the old system wrote local time."""
    try:
        return dt.datetime.fromisoformat(timestamp).timestamp()
    except ValueError:
        return 0.0


def _finding(line: dict[str, Any]) -> ReportedFinding:
    return ReportedFinding(
        timestamp=str(line.get("timestamp", "")),
        agent_id=str(line.get("agent_id", "")),
        finding_type=str(line.get("finding_type", "")),
        severity=str(line.get("severity", "")),
        message=str(line.get("message", "")),
        data=line.get("data"),
    )


def _progress(line: dict[str, Any]) -> ReportedProgress:
    progress = line.get("progress")
    return ReportedProgress(
        timestamp=str(line.get("timestamp", "")),
        agent_id=str(line.get("agent_id", "")),
        status=str(line.get("status", "")),
        progress=progress if isinstance(progress, int) else None,
        message=str(line.get("message", "")),
    )


def _reported(
    places: Places,
    task_id: str,
    agent_id: str | None,
    kind: str,
    made: Callable[[dict[str, Any]], T],
    last: int | None,
) -> list[T]:
    found = (made(line) for path in _files(places.task(task_id), kind) for line in _lines(path))
    mine = (each for each in found if agent_id in (None, each.agent_id))
    if last is None:
        return sorted(mine, key=_moment_of)
    return heapq.nlargest(max(last, 0), mine, key=_moment_of)[::-1]


def _moment_of(reported: ReportedFinding | ReportedProgress) -> float:
    return moment(reported.timestamp)


def _files(task: Path, kind: str) -> Iterator[Path]:
    """Yield the files of that kind: the living agents', then those in the archive."""
    for directory in (task / kind, task / "archive"):
        try:
            with os.scandir(directory) as entries:
                # A second one of a name is archived as …_progress.1.jsonl.
                names = sorted(entry.name for entry in entries if f"_{kind}." in entry.name)
        except FileNotFoundError:
            continue
        yield from (directory / name.removesuffix(GZ) for name in names)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    try:
        data = read_kept(path)
    except (FileNotFoundError, StorageError):
        return  # Archived, or removed, between our looks; or not ours to read.
    for line in data.splitlines():
        try:
            value = msgspec.json.decode(line)
        except (msgspec.DecodeError, ValueError):
            continue
        if isinstance(value, dict):
            yield value
