"""The check of the programs that presets run. All of them are optional."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from orchestrator_core.operations.doctor.check import Check, ok
from orchestrator_core.presets import PROGRAMS

if TYPE_CHECKING:
    from orchestrator_core.operations.doctor.check import Environment


def programs(environment: Environment) -> Check:
    """Report which presets find their program, and how to install the others."""
    path = environment.env.get("PATH", os.defpath)
    found = {name: shutil.which(program.name, path=path) for name, program in PROGRAMS.items()}
    missing = [name for name, place in found.items() if not place]
    present = [f"{name} at {place}" for name, place in found.items() if place]
    return ok(
        ", ".join([*present, *(f"no {name}" for name in missing)]),
        "; ".join(f"for {name}: {PROGRAMS[name].install}" for name in missing),
    )
