"""
The settings of a root's owner: the optional file ``orchestrator.toml`` in the root.

A person writes the file, and this package only reads it. It may name commands to run, so a
file that another user could have written is refused. A value that the file does not set has
the default of its class below.
"""

from __future__ import annotations

import math
import stat
from typing import TYPE_CHECKING, Any

import attrs
import msgspec
from attrs.validators import ge, gt, lt, optional

from orchestrator_core.exceptions import InvalidInput, StorageError
from orchestrator_core.system import durable
from orchestrator_core.system.os_errors import storage_errors

if TYPE_CHECKING:
    from pathlib import Path

NAME = "orchestrator.toml"


def _non_negative(default: float | None) -> Any:  # noqa: ANN401 - a field of int or float
    return attrs.field(default=default, validator=optional(ge(0)))


def _positive(default: float) -> Any:  # noqa: ANN401 - as above
    return attrs.field(default=default, validator=[gt(0), lt(math.inf)])


@attrs.frozen(kw_only=True)
class Sweeping:
    """``[sweep]``: what a sweep reports, and how often the resident sweeper runs."""

    silent_after_s: float = _non_negative(1800.0)  #: Report an agent that is silent for longer.
    interval_s: float = _positive(30.0)  #: How often the resident sweeper checks without an event.
    hang_s: float = _positive(120.0)  #: A check that takes longer makes the sweeper unhealthy.


@attrs.frozen(kw_only=True)
class Retention:
    """``[retention]``: how long, how many and how much of the past is kept."""

    days: float | None = _non_negative(7.0)  #: Remove archived files and journals that are older.
    files_per_task: int | None = _non_negative(None)  #: The most archived files of a task.
    bytes_per_task: int | None = _non_negative(None)  #: The most bytes of them together.
    files: int | None = _non_negative(None)  #: The most archived files of all tasks.
    bytes: int | None = _non_negative(None)  #: The most bytes of them together.
    compress_after_days: float | None = _non_negative(1.0)  #: Archived files that are older.


@attrs.frozen(kw_only=True)
class AlertSettings:
    """``[alerts]``: what to run after a cleanup that failed."""

    command: tuple[str, ...] = ()  #: An argv; it gets the report as JSON on standard input.
    timeout_s: float = _positive(10.0)  #: The command is ended after this time.


@attrs.frozen(kw_only=True)
class Agents:
    """
    ``[agents]``: what holds for every agent whose spec says nothing else.

    ``linger_s`` is the time for which an agent may go on after it has reported its own end:
    by default 60 s with a preset, 1 s without.
    """

    linger_s: float | None = _non_negative(None)  #: After a report of its end. None: 60 or 1 s.


@attrs.frozen(kw_only=True)
class Mcp:
    """``[mcp]``: the command of agents that MCP tools deploy."""

    agent_command: tuple[str, ...] = ()  #: An argv with placeholders such as {agent_id}.
    agent_preset: str | None = None  #: The name of a preset, instead of a command.
    grace_s: float = _non_negative(0.0)  #: The deployment of an agent that exits sooner fails.
    deadline_s: float | None = _non_negative(None)  #: An agent is ended then. None: never.
    linger_s: float | None = _non_negative(None)  #: As in ``[agents]``, for these agents.


@attrs.frozen(kw_only=True)
class Steps:
    """``[steps]``: where extra steps come from, for any process that must undo them."""

    modules: tuple[str, ...] = ()  #: Modules to import; each has its steps in a list STEPS.


@attrs.frozen(kw_only=True)
class Settings:
    """All settings of a root."""

    agents: Agents = attrs.field(factory=Agents)
    sweep: Sweeping = attrs.field(factory=Sweeping)
    retention: Retention = attrs.field(factory=Retention)
    alerts: AlertSettings = attrs.field(factory=AlertSettings)
    mcp: Mcp = attrs.field(factory=Mcp)
    steps: Steps = attrs.field(factory=Steps)


def read(root: Path) -> Settings:
    """
    Return the settings of a root; the defaults if it has no such file.

    Raises:
        InvalidInput: The file is not TOML, or sets an unknown or invalid value.
        StorageError: Another user could write to the file, or it cannot be read.
    """
    path = root / NAME
    try:
        data = durable.read(path)
    except FileNotFoundError:
        return Settings()
    with storage_errors("inspect", path):
        mode = path.stat().st_mode
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise StorageError(f"{path} can be written by others", hint=f"chmod go-w {path}")
    try:
        document = msgspec.toml.decode(data)
        _refuse_unknown(document)
        return msgspec.convert(document, Settings)
    except (msgspec.DecodeError, ValueError) as error:
        raise InvalidInput(
            f"{path}: {error}", hint="the how-to on configuration lists all settings"
        ) from error


def _refuse_unknown(document: dict[str, Any]) -> None:
    """Refuse unknown sections and keys: a misspelt setting would silently not apply."""
    sections = attrs.fields_dict(Settings)
    for name, values in document.items():
        if name not in sections or not isinstance(values, dict):
            raise ValueError(f"there is no section [{name}]; known are {', '.join(sections)}")
        default: Any = sections[name].default
        known = attrs.fields_dict(default.factory)
        for key in values:
            if key not in known:
                raise ValueError(f"[{name}] has no {key!r}; known are {', '.join(known)}")
