"""A step whose undo fails as long as a file exists, also in other processes."""

from __future__ import annotations

import importlib
import sys

_MODULE = """
from pathlib import Path
from orchestrator_core.saga import Outcome, Presence, receipt

FILE = Path({file!r})

@receipt("tests.held")
class Held:
    owner: str

class Hold:
    receipt_type = Held
    def plan(self, ctx): return Held(ctx.saga_id)
    def do(self, held): return held
    def probe(self, held): return Presence.ABSENT
    def undo(self, held, why):
        if FILE.exists():
            raise RuntimeError("it is in the way")
        return Outcome.undone()

STEPS = [Hold()]
"""
NAME = "tests.held"


class HeldStep:
    """
    The step, as a module in the scene's directory.

    Attributes:
        step: For ``deploy(extra_steps=…)``.
        in_the_way: The file.
        settings: The settings with which other processes of the root import the module.
    """

    def __init__(self, scene, monkeypatch):
        self.in_the_way = scene.place / "in the way"
        self.in_the_way.touch()
        (scene.place / "held_step.py").write_text(_MODULE.format(file=str(self.in_the_way)))
        monkeypatch.syspath_prepend(scene.place)
        monkeypatch.delitem(sys.modules, "held_step", raising=False)
        self.step = importlib.import_module("held_step").Hold()
        self.settings = f'[steps]\nmodules = ["held_step"]\npath = ["{scene.place}"]\n'
