"""The check of the programs that presets run. All of them are optional."""

from __future__ import annotations

import os
import shutil

from orchestrator_core.operations.doctor.check import Check, Environment
from orchestrator_core.presets import PROGRAMS


def programs(environment: Environment) -> Check:
    """Report which presets find their program, and how to install the others."""
    path = environment.env.get("PATH", os.defpath)
    found = {name: shutil.which(program.name, path=path) for name, program in PROGRAMS.items()}
    missing = [name for name, place in found.items() if not place]
    present = [f"{name} at {place}" for name, place in found.items() if place]
    return Check.ok(
        ", ".join([*present, *(f"no {name}" for name in missing)]),
        "; ".join(f"for {name}: {PROGRAMS[name].install}" for name in missing),
    )
