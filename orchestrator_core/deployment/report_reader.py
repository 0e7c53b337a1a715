"""
What agents have reported, read back, wherever it is by now.

Each agent appends to files of its own while it lives; after that they are in its task's
archive, and retention may have compressed them. A line that is torn, because its writer was
killed, is passed over.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
import msgspec

from orchestrator_core.exceptions import StorageError
from orchestrator_core.system.clock import parse_timestamp
from orchestrator_core.system.gzip_read import GZ, read_maybe_gzipped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from orchestrator_core.model.layout import Layout

T = TypeVar("T", "ReportedFinding", "ReportedProgress")

_SLACK_S = 2.0  #: A file system may keep the time of a write to no more than that.


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


def read_findings(
    layout: Layout, task_id: str, agent_id: str | None, *, last: int | None
) -> list[ReportedFinding]:
    """Return what was found, oldest first; see :meth:`Orchestrator.read_findings`."""
    return _reported(layout, task_id, agent_id, "findings", _finding, last)


def read_progress(
    layout: Layout, task_id: str, agent_id: str | None, *, last: int | None
) -> list[ReportedProgress]:
    """Return the reports of progress, oldest first; see :meth:`Orchestrator.read_progress`."""
    return _reported(layout, task_id, agent_id, "progress", _progress, last)


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
    layout: Layout,
    task_id: str,
    agent_id: str | None,
    kind: str,
    build: Callable[[dict[str, Any]], T],
    last: int | None,
) -> list[T]:
    files = list(_files(layout.task(task_id), kind, agent_id))
    if last is not None:
        files.sort(key=lambda file: file.written, reverse=True)
    found: list[tuple[tuple[float, ...], T]] = []  # One millisecond may have several.
    newest: list[float] = []  # The moments of the *last* ones so far, as a heap.
    for file in files:
        if last is not None and len(newest) >= last and _is_older(file, newest):
            break  # So are all after it.
        for line in json_lines(file.path):
            one = build(line)
            if agent_id in (None, one.agent_id):
                at = parse_timestamp(one.timestamp) or 0.0
                found.append(((at, file.written, file.number), one))
                _keep_newest(newest, at, last)
    found.sort(key=lambda each: each[0])
    return [one for _, one in (found if last is None else found[max(len(found) - last, 0) :])]


def _keep_newest(newest: list[float], at: float, last: int | None) -> None:
    if last is not None and last > 0:
        heapq.heappush(newest, at)
        if len(newest) > last:
            heapq.heappop(newest)


@attrs.frozen
class _File:
    number: int
    path: Path
    written: float  #: When, last, in seconds since 1970; compressing keeps it.


def _is_older(file: _File, newest: list[float]) -> bool:
    """Tell whether all in a file is older than the newest: no line is newer than its file."""
    return not newest or file.written + _SLACK_S < newest[0]


def _files(task: Path, kind: str, agent_id: str | None) -> Iterator[_File]:
    """Yield the files of that kind: the living agents', then those in the archive."""
    # A second one of a name is archived as …_progress.1.jsonl.
    wanted = f"_{kind}." if agent_id is None else f"{agent_id}_{kind}."
    number = itertools.count()
    for directory in (task / kind, task / "archive"):
        try:
            with os.scandir(directory) as entries:
                found = sorted((e for e in entries if wanted in e.name), key=lambda e: e.name)
        except FileNotFoundError:
            continue
        for entry in found:
            # Archived, or removed, since: then it is listed there, or not at all.
            with contextlib.suppress(FileNotFoundError):
                written = entry.stat().st_mtime
                yield _File(next(number), directory / entry.name.removesuffix(GZ), written)


def json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects of a file of reports, compressed or not; skip torn lines."""
    try:
        data = read_maybe_gzipped(path)
    except (FileNotFoundError, StorageError):
        return  # Archived, or removed, between our looks; or not ours to read.
    for line in data.splitlines():
        try:
            value = msgspec.json.decode(line)
        except (msgspec.DecodeError, ValueError):
            continue
        if isinstance(value, dict):
            yield value
