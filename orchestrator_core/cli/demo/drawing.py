"""
Draw a saga in a terminal: down go the steps that were done, up again their undoing.

::

    agent surveyor-100213-ab12cd                    do    undo
    ┌ write_prompt     0.21 ms ↓ ↑ 0.09 ms  prompt deleted, 87 B
    ├ tee_log          0.64 ms ↓ ↑ 1.12 ms  4 files archived
    ├ spawn_tmux       7.02 ms ↓ ↑ 33.4 ms  all ended: proven by cgroup
    ├ register_task    1.09 ms ↓ ↑ 0.91 ms  its record says completed
    ├ register_global  0.97 ms ↓ ↑ 0.95 ms  no longer among the living
    └ commit · it ran 1.2 s · completed: it finished

Plain text; boxes where the locale has them, colours where a person looks.
"""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from typing import TYPE_CHECKING, Any, TextIO

import attrs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_PLAIN = str.maketrans("┌├└│─↓↑✓✗·…•", "+|`|-v^+x.~*")
_COLOURS = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}
_WIDEST = 120
_STEP, _TIME, _NAME = 15, 7, 11


@attrs.frozen
class Row:
    """One step of a saga: what doing and undoing it came to."""

    step: str
    done_ms: float | None = None  #: None: it was never done.
    undo: Mapping[str, Any] | None = None  #: A step's report, as JSON-safe values.
    error: str = ""  #: Why doing it failed.


class Paper:
    """Somewhere to draw."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._has_boxes = _has_boxes(self._stream)
        self._has_colours = self._stream.isatty() and not os.environ.get("NO_COLOR")
        self.width = min(shutil.get_terminal_size().columns, _WIDEST)

    def line(self, text: str = "", *, indent: int = 2) -> None:
        """Write one line, cut where the terminal ends."""
        self._write(self._fit(" " * indent + text, self.width))

    def heading(self, text: str) -> None:
        """Write what the next lines are about."""
        text = self._fit(text, self.width - 5)
        rule = "─" * (self.width - len(text) - 4)
        self._write("")
        self._write(self._painted(f"── {text} {rule}", "bold"))

    def fact(self, name: str, value: str) -> None:
        """Write what something is called, and what it is, on as many lines as it needs."""
        room = self.width - _NAME - 2
        lines = textwrap.wrap(value, room, break_on_hyphens=False) or [""]
        self._write(self._painted(f"  {name:<{_NAME}}", "dim") + lines[0])
        for line in lines[1:]:
            self._write(" " * (_NAME + 2) + line)

    def table(self, head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Write a table: names to the left, numbers to the right."""
        cells = [list(map(str, row)) for row in (head, *rows)]
        widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
        for index, row in enumerate(cells):
            name, *numbers = (
                cell.rjust(width) if column else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            text = "  " + "   ".join([name, *numbers])
            self._write(self._painted(text, "dim") if index == 0 else text)

    def saga(self, name: str, rows: Sequence[Row], *, end: str, committed: bool) -> None:
        """Draw one saga."""
        pad = " " * (self._column - len(name) - 10)
        self._write(f"  {self._painted(name, 'cyan')}{self._painted(f'{pad}do    undo', 'dim')}")
        for index, row in enumerate(rows):
            self._row("┌" if index == 0 else "├", row)
        bottom = f"commit · {end}" if committed else end
        self._write("  " + self._painted(self._fit(f"└ {bottom}", self.width - 2), "bold"))

    @property
    def _column(self) -> int:
        """Where the words begin."""
        return 4 + _STEP + 1 + _TIME + 5 + _TIME + 2

    def _row(self, branch: str, row: Row) -> None:
        done = f"{_ms(row.done_ms)} ↓" if row.done_ms is not None else " " * _TIME + "  "
        if row.error:
            done = " " * (_TIME - 1) + self._painted("✗", "red") + "  "
        head = f"  {branch} {row.step:<{_STEP}} {done} "
        room = self.width - self._column
        if row.undo is None:
            self._write((head + self._painted(self._fit(row.error, room), "red")).rstrip())
            return
        failed = row.undo["result"] == "failed"
        undone = "✗" if failed else "↑"
        text = self._fit(row.error or told(row.undo), room)
        colour = "red" if failed or row.error else "green"
        self._write(
            f"{head}{self._painted(undone, colour)} {_ms(row.undo['duration_ms'])}  "
            f"{self._painted(text, colour) if row.error else text}"
        )

    def verdict(self, text: str, *, good: bool) -> None:
        """Write how it all came out."""
        self._write("")
        self._write(
            "  " + self._painted(f"{'✓' if good else '✗'} {text}", "green" if good else "red")
        )

    def _fit(self, text: str, room: int) -> str:
        text = " ".join(text.split()) if "\n" in text else text
        return text if len(text) <= room else text[: max(0, room - 1)] + "…"

    def _painted(self, text: str, colour: str) -> str:
        return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m" if self._has_colours and text else text

    def _write(self, text: str) -> None:
        self._stream.write((text if self._has_boxes else text.translate(_PLAIN)) + "\n")
        self._stream.flush()


def told(undo: Mapping[str, Any]) -> str:
    """Return in words what the undo of a deployment's step came to."""
    if undo["result"] == "failed":
        return str(undo["error"])
    if undo["result"] == "absent":
        return "it had none" if undo["step"] == "accept_children" else "nothing was there"
    detail = undo["detail"]
    freed = _size(detail.get("bytes_freed", 0))
    archived = detail.get("archived") or ()
    words = {
        "write_prompt": f"prompt deleted, {freed}",
        "tee_log": f"{len(archived)} files archived" if archived else f"log deleted, {freed}",
        "spawn_tmux": _processes(detail),
        "accept_children": _children(detail),
        "register_task": f"its record says {undo['status']}" if undo.get("status") else "removed",
        "register_global": "removed: not among the living",
    }
    return words.get(undo["step"], str(undo["result"]))


def _children(detail: Mapping[str, Any]) -> str:
    ended, adopted = detail.get("children", ()), detail.get("adopted", ())
    count, became = (len(ended), "ended") if ended else (len(adopted), "let go")
    return f"{count} {'child' if count == 1 else 'children'} {became}"


def _processes(detail: Mapping[str, Any]) -> str:
    forced = ", by force" if detail.get("forced") else ""
    proof = "proven by" if detail.get("proven") else "not proven by"
    return f"all ended{forced}: {proof} {detail.get('method', '?')}"


def _ms(value: float) -> str:
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f} ms".rjust(_TIME)  # noqa: PLR2004 - three digits


def _size(count: int) -> str:
    return f"{count} B" if count < 1000 else f"{count / 1000:.1f} kB"  # noqa: PLR2004 - SI


def _has_boxes(stream: TextIO) -> bool:
    """Tell whether the encoding and the locale both have the characters that we draw with."""
    if (stream.encoding or "").lower().replace("-", "") != "utf8":
        return False
    names = (os.environ.get(name) for name in ("LC_ALL", "LC_CTYPE", "LANG"))
    locale = next(filter(None, names), "UTF-8")
    return "utf" in locale.lower()
