"""The input of a check (:class:`Environment`) and its result (:class:`Check`)."""

from __future__ import annotations

import enum
import os
import subprocess
from functools import cached_property
from typing import TYPE_CHECKING, Self

import attrs

from orchestrator_core.exceptions import OrchestratorError
from orchestrator_core.model.layout import Layout, Root, read_root_file
from orchestrator_core.system.interpreter import find_python

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path


class Verdict(enum.Enum):
    """The result of a check in one word, from good to bad."""

    OK = "ok"
    UNKNOWN = "unknown"  #: The check could not find out.
    WARNING = "warning"  #: The thing works now, but may fail later or for some users.
    FAILED = "failed"  #: The thing does not work.


@attrs.frozen(kw_only=True)
class Check:
    """The result of one check: what was found, and what to do about it."""

    name: str = ""  #: The key of the check in ``CHECKS``; the check itself leaves it empty.
    verdict: Verdict
    found: str
    remedy: str = ""  #: What to do. If the verdict is OK: how to get an optional thing.

    def to_dict(self) -> dict[str, str]:
        """Return the result as JSON-safe values."""
        return {**attrs.asdict(self), "verdict": self.verdict.value}

    @classmethod
    def ok(cls, found: str, remedy: str = "") -> Self:
        """Return a result without a problem; *remedy* is for optional things only."""
        return cls(verdict=Verdict.OK, found=found, remedy=remedy)

    @classmethod
    def unknown(cls, found: str, remedy: str) -> Self:
        """Return the result of a check that could not find out."""
        return cls(verdict=Verdict.UNKNOWN, found=found, remedy=remedy)

    @classmethod
    def warning(cls, found: str, remedy: str) -> Self:
        """Return a result that may become a failure."""
        return cls(verdict=Verdict.WARNING, found=found, remedy=remedy)

    @classmethod
    def failed(cls, found: str, remedy: str) -> Self:
        """Return a failure."""
        return cls(verdict=Verdict.FAILED, found=found, remedy=remedy)

    @classmethod
    def from_error(cls, error: Exception) -> Self:
        """Return the failure that an exception describes."""
        hint = error.hint if isinstance(error, OrchestratorError) else ""
        found = str(error) or type(error).__name__
        return cls.failed(found, hint or "see the file or call in the message")

    @classmethod
    def by_threshold(cls, value: int, found: str, remedy: str, *, low: int, none: int) -> Self:
        """Return a failure if *value* is less than *none*, a warning if it is less than *low*."""
        if value < none:
            return cls.failed(found, remedy)
        return cls.warning(found, remedy) if value < low else cls.ok(found)

    @classmethod
    def worst_of(cls, checks: Iterable[Self], *, well: str) -> Self:
        """Return all problems as one result with the worst verdict; *well* if there is none."""
        problems = [check for check in checks if check.verdict is not Verdict.OK]
        if not problems:
            return cls.ok(well)
        return cls(
            verdict=max((check.verdict for check in problems), key=list(Verdict).index),
            found="; ".join(check.found for check in problems),
            remedy="; ".join(dict.fromkeys(check.remedy for check in problems)),
        )


def shorten_list(things: Iterable[object], *, shown: int = 3) -> str:
    """Return the first *shown* things as text, and the number of the others."""
    names = [str(thing) for thing in things]
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def modification_times(root: Path, *patterns: str) -> Iterator[tuple[float, Path]]:
    """Yield the time of the last write, in seconds since 1970, and the path of matching files."""
    for pattern in patterns:
        for path in root.glob(pattern):
            try:
                yield path.lstat().st_mtime, path
            except OSError:
                continue  # Removed since the listing.


def run_python(program: str, *arguments: str) -> int:
    """
    Return the exit status of *program*, run by a bare interpreter.

    Raises:
        subprocess.TimeoutExpired: The program has not ended within 5 seconds.
    """
    return subprocess.run(  # noqa: S603 - this interpreter
        [find_python(), "-I", "-S", "-c", program, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=5,
        check=False,
    ).returncode


@attrs.define
class Environment:
    """What the doctor examines. No method creates or changes a file."""

    root: Path | None  #: None: the root could not be determined.
    chosen_by: str
    root_error: str  #: Why *root* is None.
    env: Mapping[str, str]
    timeout_s: float  #: For each question to another process.

    @property
    def layout(self) -> Layout | None:
        """The layout of the root; None if there is no root."""
        # Path.is_dir raises if a directory above may not be searched.
        if self.root is None or not os.path.isdir(self.root):  # noqa: PTH112
            return None
        return Layout(self.root)

    @cached_property
    def root_record(self) -> Root | OrchestratorError | None:
        """The id and the socket of the root; the error of ``root.json``; None if it is unused."""
        if self.layout is None:
            return None
        try:
            return read_root_file(self.layout)
        except OrchestratorError as error:
            return error

    @property
    def socket(self) -> Path | None:
        """The socket of the root's tmux server, if it is known."""
        return self.root_record.tmux_socket if isinstance(self.root_record, Root) else None
