"""Checks of the software: Python, libraries, agents' programs, locale, environment variables."""

from __future__ import annotations

import importlib.metadata
import locale as locales
import os
import re
import shutil
import sys
from typing import TYPE_CHECKING

from orchestrator_core.exceptions import InvalidInput
from orchestrator_core.model.environment import ENV_AGENT, ENV_TASK, HIDDEN_ENV, RESERVED_ENV
from orchestrator_core.model.layout import ENVIRONMENT
from orchestrator_core.model.limits import VARIABLES, Limits
from orchestrator_core.operations.doctor.check import Check, Environment
from orchestrator_core.presets import PROGRAMS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


OLDEST_PYTHON = (3, 11)

SUPPORTED = {
    "attrs": ("25.1", None),
    "libtmux": ("0.62", "0.63"),
    "msgspec": ("0.19", None),
    "portalocker": ("4", "5"),
    "psutil": ("6", None),
    "structlog": ("24.1", None),
}
"""The required libraries: the first version, and the first unsupported one. See pyproject.toml."""

KNOWN = frozenset({*ENVIRONMENT, *RESERVED_ENV, *VARIABLES.values(), "ORCHESTRATOR_CONTAINMENT"})

#: Prefixes of this package's variables, and of the previous system's.
_PREFIXES = ("ORCHESTRATOR_", "CLAUDE_ORCHESTRATOR_")


def python(_environment: Environment) -> Check:
    """Check that this version of Python is supported."""
    found = f"Python {'.'.join(map(str, sys.version_info[:3]))} at {sys.executable}"
    if sys.version_info[:2] < OLDEST_PYTHON:
        return Check.failed(found, f"use Python {'.'.join(map(str, OLDEST_PYTHON))} or newer")
    return Check.ok(found)


def libraries(_environment: Environment) -> Check:
    """Check that the required libraries are installed, in supported versions."""
    checks = [_library(name, *bounds) for name, bounds in SUPPORTED.items()]
    return Check.worst_of(checks, well=", ".join(check.found for check in checks))


def _library(name: str, first: str, before: str | None) -> Check:
    wanted = f"{name}>={first}" + (f",<{before}" if before else "")
    remedy = f'{sys.executable} -m pip install "{wanted}"'
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Check.failed(f"there is no {name}", remedy)
    if _number(version) < _number(first):
        return Check.failed(f"{name} {version} is too old", remedy)
    if before is not None and _number(version) >= _number(before):
        return Check.warning(f"{name} {version} is newer than the tested versions", remedy)
    return Check.ok(f"{name} {version}")


def _number(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)[:3]))


def agent_programs(environment: Environment) -> Check:
    """Report which presets find their program, and how to install the others."""
    path = environment.env.get("PATH", os.defpath)
    found = {name: shutil.which(program.name, path=path) for name, program in PROGRAMS.items()}
    missing = [name for name, place in found.items() if not place]
    present = [f"{name} at {place}" for name, place in found.items() if place]
    return Check.ok(
        ", ".join([*present, *(f"no {name}" for name in missing)]),
        "; ".join(f"for {name}: {PROGRAMS[name].install}" for name in missing),
    )


def locale(environment: Environment) -> Check:
    """Report the locale. Every locale works, and so does none."""
    names = ("LC_ALL", "LC_CTYPE", "LANG")
    chosen = next((environment.env[name] for name in names if environment.env.get(name)), "none")
    encoding = locales.getpreferredencoding(do_setlocale=False)
    return Check.ok(f"{chosen} ({encoding}); C or none is as good: every query to tmux is in UTF-8")


def environment(environment: Environment) -> Check:
    """Check for variables with a meaning that their setter may not expect."""
    env = environment.env
    well = "no variable with a surprising meaning"
    if HIDDEN_ENV & env.keys():  # Common, and hidden from agents.
        well = "this process is inside tmux; agents are not, they have a separate server"
    return Check.worst_of(_surprises(env), well=well)


def _surprises(env: Mapping[str, str]) -> Iterator[Check]:
    first, second = (env.get(name) for name in ENVIRONMENT)
    if first and second and first != second:
        yield Check.warning(
            f"{ENVIRONMENT[0]} is {first}, {ENVIRONMENT[1]} is {second}: the first one counts",
            f"unset {ENVIRONMENT[1]}",
        )
    if env.get(ENV_AGENT):
        yield Check.warning(
            f"this process is inside agent {env[ENV_AGENT]} of {env.get(ENV_TASK) or 'no task'}: "
            "commands without an agent's id are about that one",
            f"if this is not that agent: unset {' '.join(sorted(RESERVED_ENV))}",
        )
    for name in VARIABLES.values():
        try:
            Limits.from_environment({name: env.get(name, "")})
        except InvalidInput as error:
            yield Check.failed(f"{error}: no root is opened, unless Limits are given", error.hint)
    for name in sorted(env):
        if name.startswith(_PREFIXES) and name not in KNOWN:
            yield Check.warning(f"{name} has no meaning here", f"is it misspelt? unset {name}")
