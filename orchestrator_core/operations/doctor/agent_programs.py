"""A check of what presets run: none of it has to be there."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from orchestrator_core.operations.doctor.check import Answer, Verdict
from orchestrator_core.presets import PROGRAMS

if TYPE_CHECKING:
    from orchestrator_core.operations.doctor.check import Environment


def programs(subject: Environment) -> Answer:
    """Tell which presets find their program, and how one comes by the others."""
    path = subject.env.get("PATH", os.defpath)
    found = {name: shutil.which(program.name, path=path) for name, program in PROGRAMS.items()}
    told = [f"{name} at {place}" for name, place in found.items() if place]
    missing = [name for name, place in found.items() if not place]
    told += [f"no {name}" for name in missing]
    remedy = "; ".join(f"for {name}: {PROGRAMS[name].install}" for name in missing)
    # Who does not use a preset lacks nothing.
    return Answer(Verdict.OK, ", ".join(told), remedy)
