"""
A saga as text: each step with the time of its do, and the time and the result of its undo.

::

    surveyor-100213-ab12cd         do    undo
    ┌ write_prompt    0.21 ms ↓ ↑ 0.09 ms  prompt deleted, 87 B
    ├ tee_log         0.64 ms ↓ ↑ 1.12 ms  4 files archived
    ├ spawn_tmux      7.02 ms ↓ ↑ 33.4 ms  all ended: proven by cgroup
    ├ register_task   1.09 ms ↓ ↑ 0.91 ms  its record says completed
    ├ register_global 0.97 ms ↓ ↑ 0.95 ms  removed: not among the living
    └ commit · it held all this for 1.2 s · completed: it finished

Box characters where the stream's encoding has them.
"""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from collections.abc import Mapping

Undo = dict[str, Any]  #: A step's report, as JSON-safe values.

STEPS = ("write_prompt", "tee_log", "spawn_tmux", "register_task", "register_global")
_ASCII = str.maketrans("┌├└─↓↑✓✗·…", "+||-v^+x.~")


class Canvas:
    """A terminal or a file to draw on. No line is wider than the terminal."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._is_ascii = (self._stream.encoding or "utf-8").lower() not in ("utf-8", "utf8")
        self._width = min(shutil.get_terminal_size().columns, 120)

    def line(self, text: str) -> None:
        """Write a line, cut at the terminal's width."""
        if len(text) > self._width:
            text = f"{text[: self._width - 1]}…"
        print(text.translate(_ASCII) if self._is_ascii else text, file=self._stream, flush=True)

    def heading(self, text: str) -> None:
        """Write a heading."""
        self.line("")
        self.line(f"── {text} ".ljust(self._width, "─"))

    def fact(self, name: str, value: str) -> None:
        """Write a name and a value."""
        self.line(f"  {name:<10} {value}")

    def saga(
        self, name: str, done_ms: Mapping[str, float], undone: Mapping[str, Undo], end: str
    ) -> None:
        """Draw one saga: the duration of each step that was done, and the report of each undo."""
        self.line(f"  {name:<26}     do    undo")
        for step in STEPS:
            done = f"{_ms(done_ms[step])} ↓" if step in done_ms else ""
            text = f"  {'┌' if step == STEPS[0] else '├'} {step:<15} {done:<9} "
            if undo := undone.get(step):
                text += f"↑ {_ms(undo['duration_ms'])}  {describe_undo(undo)}"
            self.line(text)
        self.line(f"  └ {end}")


def describe_undo(undo: Undo) -> str:
    """Return the result of a step's undo as text."""
    if undo["result"] in ("failed", "absent"):
        return f"FAILED: {undo['error']}" if undo["result"] == "failed" else "nothing was there"
    detail = undo["detail"]
    freed = _size(detail.get("bytes_freed", 0))
    archived = detail.get("archived") or ()
    forced = ", by force" if detail.get("forced") else ""
    proof = "proven by" if detail.get("proven") else "not proven by"
    texts = {
        "write_prompt": f"prompt deleted, {freed}",
        "tee_log": f"{len(archived)} files archived" if archived else f"log deleted, {freed}",
        "spawn_tmux": f"all ended{forced}: {proof} {detail.get('method', '?')}",
        "register_task": f"its record says {undo['status']}" if undo.get("status") else "removed",
        "register_global": "removed: not among the living",
    }
    return texts.get(undo["step"], str(undo["result"]))


def _ms(value: float) -> str:
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f} ms".rjust(7)  # noqa: PLR2004 - three digits


def _size(count: int) -> str:
    return f"{count} B" if count < 1000 else f"{count / 1000:.1f} kB"  # noqa: PLR2004 - SI
