"""A saga's picture fits the terminal that it is drawn in."""

from __future__ import annotations

import io

import pytest

from orchestrator_core.cli.demo.drawing import Canvas, describe_undo

DONE_MS = {"write_prompt": 0.213, "tee_log": 123.4}
UNDONE = {
    "write_prompt": {"step": "write_prompt", "result": "absent", "duration_ms": 12.34},
    "tee_log": {"step": "tee_log", "result": "failed", "duration_ms": 0, "error": "x" * 99},
}


class Screen(io.TextIOWrapper):
    """A terminal with an encoding."""

    def __init__(self, encoding="utf-8"):
        super().__init__(io.BytesIO(), encoding=encoding)

    @property
    def text(self):
        return self.buffer.getvalue().decode(self.encoding)


def draw(screen):
    canvas = Canvas(screen)
    canvas.heading("a heading that goes on and on " * 5)
    canvas.fact("name", "a value that goes on and on " * 9)
    canvas.saga("a-101112-abcdef", DONE_MS, UNDONE, "failed: " + "y" * 99)
    return screen.text


@pytest.mark.parametrize("columns", [60, 80, 120, 500])
def test_no_line_is_wider_than_the_terminal(monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))

    assert max(map(len, draw(Screen()).splitlines())) <= columns


def test_a_drawing_has_boxes_only_where_the_encoding_has_them():
    assert "┌ write_prompt" in draw(Screen())
    drawn = draw(Screen("iso-8859-1"))
    assert drawn.isascii()
    assert "+ write_prompt" in drawn


@pytest.mark.parametrize(
    ("undo", "text"),
    [
        ({"step": "write_prompt", "result": "absent"}, "nothing was there"),
        ({"step": "spawn_tmux", "result": "failed", "error": "it hangs"}, "FAILED: it hangs"),
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
def test_the_result_of_an_undo_is_a_sentence(undo, text):
    assert text == describe_undo(undo)
