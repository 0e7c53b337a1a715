"""
What a root's owner has settled for good: the optional file ``orchestrator.toml`` in the root.

It is written by people and only read here. It may name commands that we run, so
one that somebody else could have written is refused. Whatever is not in it has
the default that its class below gives it.
"""

from __future__ import annotations

import math
import stat
from typing import TYPE_CHECKING, Any

import attrs
import msgspec

from orchestrator_core.exceptions import InvalidInput, StorageError
from orchestrator_core.system import durable
from orchestrator_core.system.os_errors import storage_errors

if TYPE_CHECKING:
    from pathlib import Path

NAME = "orchestrator.toml"


def _amount(default: float | None) -> Any:  # noqa: ANN401 - a field of either kind of number
    return attrs.field(default=default, validator=_is_an_amount)


def _is_an_amount(_: object, field: attrs.Attribute[Any], value: float | None) -> None:
    if value is not None and not value >= 0:  # NaN among them
        raise ValueError(f"{field.name} = {value} is no amount; say 0 or more")


def _time(default: float) -> Any:  # noqa: ANN401 - as above
    return attrs.field(default=default, validator=_is_a_time)


def _is_a_time(_: object, field: attrs.Attribute[Any], value: float) -> None:
    if not 0 < value < math.inf:
        raise ValueError(f"{field.name} = {value} is no time; say more than 0 seconds")


@attrs.frozen(kw_only=True)
class Sweeping:
    """``[sweep]``: what a sweep takes for worth telling."""

    silent_after_s: float = _amount(1800.0)  #: An agent that has shown no sign of life for so long.
    interval_s: float = _time(30.0)  #: How often the resident sweeper looks, if nothing wakes it.
    hang_s: float = _time(120.0)  #: What takes it longer makes it unhealthy, to be started anew.


@attrs.frozen(kw_only=True)
class Retention:
    """``[retention]``: how long, how many and how much of the past is kept."""

    days: float | None = _amount(7.0)  #: Archived files and journals go when they are older.
    files_per_task: int | None = _amount(None)  #: So many archived files of a task stay.
    bytes_per_task: int | None = _amount(None)  #: So many bytes of them stay.
    files: int | None = _amount(None)  #: So many archived files of all tasks together.
    bytes: int | None = _amount(None)  #: So many bytes of those.
    compress_after_days: float | None = _amount(1.0)  #: Archived files that are older: with gzip.


@attrs.frozen(kw_only=True)
class Alerts:
    """``[alerts]``: whom to tell of a cleanup that failed."""

    command: tuple[str, ...] = ()  #: An argv; gets the report as JSON on its standard input.
    timeout_s: float = _time(10.0)  #: It is ended after so long.


@attrs.frozen(kw_only=True)
class Mcp:
    """``[mcp]``: what the agents run that are deployed through MCP tools."""

    agent_command: tuple[str, ...] = ()  #: An argv, in which {agent_id} and the like are replaced.
    agent_preset: str | None = None  #: Or the name of a preset.
    grace_s: float = _amount(0.0)  #: One that dies sooner was not deployed.
    deadline_s: float | None = _amount(None)  #: An agent is ended after so long. None: never.


@attrs.frozen(kw_only=True)
class Steps:
    """``[steps]``: steps of one's own, for whoever is to undo them."""

    modules: tuple[str, ...] = ()  #: Modules to import, each with a list STEPS of its steps.


@attrs.frozen(kw_only=True)
class Settings:
    """All of it."""

    sweep: Sweeping = attrs.field(factory=Sweeping)
    retention: Retention = attrs.field(factory=Retention)
    alerts: Alerts = attrs.field(factory=Alerts)
    mcp: Mcp = attrs.field(factory=Mcp)
    steps: Steps = attrs.field(factory=Steps)


def read(root: Path) -> Settings:
    """
    Return the settings of a root; the defaults if it has no such file.

    Raises:
        InvalidInput: It is not TOML, or says what is not known here.
        StorageError: It is not ours alone to write, or cannot be read.
    """
    path = root / NAME
    try:
        data = durable.read(path)
    except FileNotFoundError:
        return Settings()
    with storage_errors("look at", path):
        mode = path.stat().st_mode
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise StorageError(f"{path} can be written by others", hint=f"chmod go-w {path}")
    try:
        document = msgspec.toml.decode(data)
        _refuse_unknown(document)
        return msgspec.convert(document, Settings)
    except (msgspec.DecodeError, ValueError) as error:
        raise InvalidInput(
            f"{path}: {error}", hint="the how-to on configuration lists what it may say"
        ) from error


def _refuse_unknown(document: dict[str, Any]) -> None:
    """See that nothing was misspelt: what is not known would silently not hold."""
    sections = attrs.fields_dict(Settings)
    for name, values in document.items():
        if name not in sections or not isinstance(values, dict):
            raise ValueError(f"there is no section [{name}]; known are {', '.join(sections)}")
        default: Any = sections[name].default
        known = attrs.fields_dict(default.factory)
        for key in values:
            if key not in known:
                raise ValueError(f"[{name}] has no {key!r}; known are {', '.join(known)}")
