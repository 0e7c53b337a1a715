"""Checks of what we are made of: Python, libraries, the locale, the environment."""

from __future__ import annotations

import importlib.metadata
import locale as locales
import re
import sys

from orchestrator_core.exceptions import InvalidInput
from orchestrator_core.model.environment import ENV_AGENT, ENV_TASK, HIDDEN_ENV, RESERVED_ENV
from orchestrator_core.model.layout import ENVIRONMENT
from orchestrator_core.model.limits import VARIABLES, Limits
from orchestrator_core.operations.doctor.check import (
    Answer,
    Environment,
    failed,
    ok,
    warning,
    worst_of,
)

OLDEST_PYTHON = (3, 11)

SUPPORTED = {
    "attrs": ("25.1", None),
    "libtmux": ("0.62", "0.63"),
    "msgspec": ("0.19", None),
    "portalocker": ("4", "5"),
    "psutil": ("6", None),
    "structlog": ("24.1", None),
}
"""The libraries we need: from which version on, and before which. As in pyproject.toml."""

KNOWN = frozenset({*ENVIRONMENT, *RESERVED_ENV, *VARIABLES.values(), "ORCHESTRATOR_CONTAINMENT"})

#: Of those the old system's ones have a prefix of their own.
_PREFIXES = ("ORCHESTRATOR_", "CLAUDE_ORCHESTRATOR_")


def python(_subject: Environment) -> Answer:
    """See whether this Python is one that we support."""
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] < OLDEST_PYTHON:
        wanted = ".".join(map(str, OLDEST_PYTHON))
        return failed(f"Python {version} at {sys.executable}", f"use Python {wanted} or newer")
    return ok(f"Python {version} at {sys.executable}")


def libraries(_subject: Environment) -> Answer:
    """See whether the libraries that we need are there, in versions that we know."""
    answers = [_library(name, *bounds) for name, bounds in SUPPORTED.items()]
    return worst_of(answers, well=", ".join(answer.found for answer in answers))


def _library(name: str, first: str, before: str | None) -> Answer:
    wanted = f"{name}>={first}" + (f",<{before}" if before else "")
    remedy = f'{sys.executable} -m pip install "{wanted}"'
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return failed(f"there is no {name}", remedy)
    if _number(version) < _number(first):
        return failed(f"{name} {version} is too old", remedy)
    if before is not None and _number(version) >= _number(before):
        return warning(f"{name} {version} is newer than what was tried", remedy)
    return ok(f"{name} {version}")


def _number(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)[:3]))


def locale(subject: Environment) -> Answer:
    """Tell the locale: any will do, none as well."""
    names = ("LC_ALL", "LC_CTYPE", "LANG")
    chosen = next((subject.env[name] for name in names if subject.env.get(name)), "none")
    encoding = locales.getpreferredencoding(do_setlocale=False)
    return ok(f"{chosen} ({encoding}); C or none is as good: tmux is always asked in UTF-8")


def environment(subject: Environment) -> Answer:
    """Look for variables that mean something else than their setter may think."""
    # That is how most people work, and no agent gets to see it.
    inside = "we are inside tmux; agents are not, they run on a server of their own"
    is_inside = HIDDEN_ENV & subject.env.keys()
    well = inside if is_inside else "nothing in it that could surprise"
    return worst_of(_leftovers(subject), well=well)


def _leftovers(subject: Environment) -> list[Answer]:
    env = subject.env
    found = []
    ours, theirs = (env.get(name) for name in ENVIRONMENT)
    if ours and theirs and ours != theirs:
        found.append(
            warning(
                f"{ENVIRONMENT[0]} is {ours}, {ENVIRONMENT[1]} is {theirs}: the first one counts",
                f"unset {ENVIRONMENT[1]}",
            )
        )
    if env.get(ENV_AGENT):
        inside = f"we are inside agent {env[ENV_AGENT]} of {env.get(ENV_TASK) or 'no task'}"
        found.append(
            warning(
                f"{inside}: commands without an agent's id are about that one",
                f"if you are not that agent: unset {' '.join(sorted(RESERVED_ENV))}",
            )
        )
    for name in VARIABLES.values():
        try:
            Limits.from_environment({name: env.get(name, "")})
        except InvalidInput as error:
            said = f"{error}: no root is opened, unless Limits are given"
            found.append(failed(said, error.hint))
    found += [
        warning(f"{name} means nothing to us", f"is it misspelt? unset {name}")
        for name in sorted(env)
        if name.startswith(_PREFIXES) and name not in KNOWN
    ]
    return found
