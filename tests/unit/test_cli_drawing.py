"""A saga's picture fits the terminal that it is drawn in."""

from __future__ import annotations

import io
import re

import pytest

from orchestrator_core.cli.demo.drawing import Paper, Row, told

ESCAPE = re.compile(r"\x1b\[\d+m")
STEPS = [
    Row("write_prompt", 0.213, {"step": "write_prompt", "result": "absent", "duration_ms": 12.34}),
    Row(
        "tee_log",
        123.4,
        {"step": "tee_log", "result": "failed", "duration_ms": 0, "error": "x" * 99},
    ),
    Row("spawn_tmux", error="it would not start"),
]


class Screen(io.TextIOWrapper):
    """A terminal, or a file."""

    def __init__(self, *, is_terminal=True, encoding="utf-8"):
        super().__init__(io.BytesIO(), encoding=encoding)
        self.is_terminal = is_terminal

    def isatty(self):
        return self.is_terminal

    @property
    def text(self):
        return self.buffer.getvalue().decode(self.encoding)


def draw(screen):
    paper = Paper(screen)
    paper.heading("a heading that goes on and on " * 5)
    paper.fact("name", "a value that goes on and on " * 9)
    paper.table(("what", "now"), [("sessions", 1), ("prompt files", 12)])
    paper.saga("a-101112-abcdef", STEPS, committed=True, end="failed: " + "y" * 99)
    paper.verdict("done", good=True)
    return screen.text


@pytest.fixture(autouse=True)
def _a_usual_terminal(monkeypatch):
    for name in ("NO_COLOR", "LC_ALL", "LC_CTYPE", "LANG"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("columns", [60, 80, 120, 500])
def test_no_line_is_wider_than_the_terminal(monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))

    lines = ESCAPE.sub("", draw(Screen())).splitlines()

    assert max(map(len, lines)) <= columns


def test_it_has_colours_only_where_a_person_looks(monkeypatch):
    assert ESCAPE.search(draw(Screen()))
    assert not ESCAPE.search(draw(Screen(is_terminal=False)))
    monkeypatch.setenv("NO_COLOR", "1")
    assert not ESCAPE.search(draw(Screen()))


def test_it_has_boxes_only_where_the_locale_has_them(monkeypatch):
    assert "┌ write_prompt" in draw(Screen())
    assert draw(Screen(encoding="iso-8859-1")).isascii()
    monkeypatch.setenv("LC_ALL", "C")
    drawn = draw(Screen())
    assert drawn.isascii()
    assert "+ write_prompt" in drawn


@pytest.mark.parametrize(
    ("undo", "words"),
    [
        ({"step": "write_prompt", "result": "absent"}, "nothing was there"),
        ({"step": "spawn_tmux", "result": "failed", "error": "it hangs"}, "it hangs"),
        (
            {
                "step": "spawn_tmux",
                "result": "undone",
                "detail": {"forced": True, "proven": True, "method": "cgroup"},
            },
            "all ended, by force: proven by cgroup",
        ),
        (
            {"step": "tee_log", "result": "undone", "detail": {"archived": ["a", "b"]}},
            "2 files archived",
        ),
        (
            {"step": "tee_log", "result": "undone", "detail": {"bytes_freed": 3200}},
            "log deleted, 3.2 kB",
        ),
        ({"step": "another", "result": "undone", "detail": {}}, "undone"),
    ],
)
def test_an_undo_in_words(undo, words):
    assert words == told(undo)
