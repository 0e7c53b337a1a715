"""
What every benchmark here shares: a figure, its floor, and medians of interleaved runs.

The machine is never quiet, so the library and the floor take turns within one run, and the
ratio of their medians is the result. Nothing here asserts anything.
"""

from __future__ import annotations

import argparse
import inspect
import os
import statistics
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))  # this checkout, not an installed package


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One line of the table: a cost of the library, its floor, and its target."""

    name: str
    measured: float
    floor: float
    unit: str = "ms"
    at_most: float | None = None  #: The greatest ratio to the floor,
    at_least: float | None = None  #: or the smallest,
    at_most_units: float | None = None  #: or the greatest value,
    at_most_more: float | None = None  #: or the greatest distance from the floor.
    note: str = ""

    @property
    def ratio(self) -> float:
        return self.measured / self.floor if self.floor else float("nan")

    @property
    def target(self) -> str:
        if self.at_most is not None:
            return f"≤ {self.at_most:g} x floor"
        if self.at_least is not None:
            return f"≥ {self.at_least:g} x floor"
        if self.at_most_units is not None:
            return f"≤ {self.at_most_units:g} {self.unit}"
        if self.at_most_more is not None:
            return f"≤ floor + {self.at_most_more:g} {self.unit}"
        return ""

    @property
    def is_met(self) -> bool:
        return (
            (self.at_most is None or self.ratio <= self.at_most)
            and (self.at_least is None or self.ratio >= self.at_least)
            and (self.at_most_units is None or self.measured <= self.at_most_units)
            and (self.at_most_more is None or self.measured - self.floor <= self.at_most_more)
        )


def show(figures: list[Figure]) -> None:
    """Print the table."""
    rows = [("figure", "library", "floor", "ratio", "target", "", "")]
    rows += [
        (
            figure.name,
            f"{figure.measured:.4g} {figure.unit}",
            f"{figure.floor:.4g} {figure.unit}",
            f"{figure.ratio:.2f}",
            figure.target,
            "" if not figure.target else "met" if figure.is_met else "MISSED",
            figure.note,
        )
        for figure in figures
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [
            cell.rjust(width) if column in (1, 2, 3) else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip(), flush=True)


def main(about: str | None, figures) -> None:
    """Run one benchmark as a command: measure and print."""
    usual = inspect.signature(figures).parameters["rounds"].default
    parser = argparse.ArgumentParser(description=(about or "").split("\n\n")[0].strip())
    parser.add_argument("directory", nargs="?", help="on the disk you mean; else a temporary one")
    parser.add_argument("--rounds", type=int, default=usual)
    options = parser.parse_args()
    show(figures(options.directory, options.rounds))


def timed(call, *arguments):
    """Return the milliseconds that a call takes, and what it returns."""
    begun = time.perf_counter()
    result = call(*arguments)
    return (time.perf_counter() - begun) * 1e3, result


def median(taken: list[float]) -> float:
    return statistics.median(taken)


@contextmanager
def counted_fsyncs():
    """Count the fsyncs of this process; yields a list that grows by one for each."""
    plain, seen = os.fsync, []

    def fsync(fd):
        seen.append(fd)
        plain(fd)

    os.fsync = fsync
    try:
        yield seen
    finally:
        os.fsync = plain


@contextmanager
def place(directory: str | None):
    """Create a temporary directory in *directory*, which chooses the disk."""
    with tempfile.TemporaryDirectory(prefix="oc-bench-", dir=directory) as name:
        yield Path(name)
