"""
Reports read back: the findings and the progress of agents, live and archived.

Each agent appends to its own files. At its end they move to its task's archive, where
retention may compress them. A torn line, whose writer was killed, is skipped.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import attrs
import msgspec

from orchestrator_core.exceptions import StorageError
from orchestrator_core.model.records import ReportedFinding, ReportedProgress
from orchestrator_core.system.clock import parse_timestamp
from orchestrator_core.system.gzip_read import GZ, read_maybe_gzipped

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from orchestrator_core.model.layout import Layout

T = TypeVar("T", ReportedFinding, ReportedProgress)

_DIRECTORIES = {ReportedFinding: "findings", ReportedProgress: "progress"}

_RESOLUTION_S = 2.0  #: The coarsest resolution of a file system's modification times.


class _File(NamedTuple):
    number: int
    path: Path
    modified: float  #: Seconds since 1970; compression keeps it.


def read_reports(
    kind: type[T], layout: Layout, task_id: str, agent_id: str | None, *, last: int | None
) -> list[T]:
    """
    Return the reports of an agent, or of all agents of a task; the oldest comes first.

    With *last*, only as many files are read as it takes.
    """
    files = _files(layout.task(task_id), _DIRECTORIES[kind], agent_id)
    names = [field.name for field in attrs.fields(kind)]
    found: list[tuple[tuple[float, ...], T]] = []  # Some share a millisecond.
    if last is not None:
        files = sorted(files, key=lambda file: file.modified, reverse=True)
    for file in files:
        is_full = last is not None and len(found) >= last
        # No line is newer than its file: this one and all after it are too old.
        if is_full and (not found or file.modified + _RESOLUTION_S < found[0][0][0]):
            break
        for line in json_lines(file.path):
            report = kind(**{name: line[name] for name in names if name in line})
            if agent_id in (None, report.agent_id):
                written = parse_timestamp(report.timestamp) or 0.0
                found.append(((written, file.modified, file.number), report))
        found.sort(key=lambda each: each[0])
        if last is not None:
            del found[: max(len(found) - last, 0)]
    return [report for _, report in found]


def _files(task: Path, kind: str, agent_id: str | None) -> list[_File]:
    """Return the files of a kind: those of live agents, then those in the archive."""
    files: list[_File] = []
    # The archive numbers files of the same name: …_progress.1.jsonl.
    wanted = f"_{kind}." if agent_id is None else f"{agent_id}_{kind}."
    for directory in (task / kind, task / "archive"):
        try:
            with os.scandir(directory) as entries:
                found = sorted((e for e in entries if wanted in e.name), key=lambda e: e.name)
        except FileNotFoundError:
            continue
        for entry in found:
            # A file that was archived since is listed there, too.
            with contextlib.suppress(FileNotFoundError):
                modified = entry.stat().st_mtime
                path = directory / entry.name.removesuffix(GZ)
                files.append(_File(len(files), path, modified))
    return files


def json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects of a file of reports, compressed or not; skip torn lines."""
    try:
        data = read_maybe_gzipped(path)
    except (FileNotFoundError, StorageError):
        return  # It was archived or removed since, or belongs to another user.
    for line in data.splitlines():
        try:
            value = msgspec.json.decode(line)
        except (msgspec.DecodeError, ValueError):
            continue
        if isinstance(value, dict):
            yield value
