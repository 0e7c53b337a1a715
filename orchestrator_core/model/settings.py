"""
The settings of a root: the optional file ``orchestrator.toml`` in the root, and the user's own.

A person writes both files, and this package only reads them. They may name commands to run,
so a file that another user could have written is refused. The user's own file is
``orchestrator.toml`` in the directory that :mod:`.approval` names. It holds for all roots, and
has only the sections that name commands and modules, :data:`COMMAND_SECTIONS`. A section of the
root's file replaces that of the user's own. A value that neither sets has the default of its
class below.

Agents may be able to write the root's file. So those sections of it count only after the user
has approved them.
"""

from __future__ import annotations

import math
import stat
from typing import TYPE_CHECKING, Any

import attrs
import msgspec
from attrs.validators import ge, gt, lt, optional

from orchestrator_core.exceptions import InvalidInput, StorageError
from orchestrator_core.model import approval
from orchestrator_core.system import durable
from orchestrator_core.system.os_errors import storage_errors

if TYPE_CHECKING:
    from pathlib import Path

NAME = "orchestrator.toml"

#: The sections of a root's file that count only if the user has approved all their values.
COMMAND_SECTIONS = ("alerts", "mcp", "steps")


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
    path: tuple[str, ...] = ()  #: Directories to import them from, beside the installed packages.


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
    Return the settings of a root; the defaults if no file sets any.

    Raises:
        InvalidInput: A file is not TOML, or sets an unknown or invalid value.
        StorageError: Another user could write to a file, or it cannot be read.
    """
    document = _read_document(root / NAME)
    for section in _unapproved(root, document):
        del document[section]
    return _convert(_user_document() | document, root / NAME)


def unapproved(root: Path) -> dict[str, Any]:
    """
    Return the sections of a root's file that do not count, because the user must approve them.

    Raises:
        InvalidInput, StorageError: See :func:`read`.
    """
    return _unapproved(root, _read_document(root / NAME))


def approve(root: Path) -> dict[str, Any]:
    """
    Approve the command sections of a root's file as they are now, durably; return them.

    Each later change of one of them needs another approval.

    Raises:
        InvalidInput, StorageError: See :func:`read`; or the approval cannot be written.
    """
    sections = unapproved(root)
    if sections:
        approval.approve(root, sections)
    return sections


def user_file() -> Path | None:
    """Return the path of the user's own file, which need not exist; None without a home."""
    directory = approval.user_directory()
    return None if directory is None else directory / NAME


def _user_document() -> dict[str, Any]:
    path = user_file()
    document = {} if path is None else _read_document(path)
    other = document.keys() - {*COMMAND_SECTIONS}
    if other:
        raise InvalidInput(
            f"{path}: [{min(other)}] belongs into a root's {NAME}",
            hint=f"the user's own file has only: {', '.join(COMMAND_SECTIONS)}",
        )
    return document


def _unapproved(root: Path, document: dict[str, Any]) -> dict[str, Any]:
    sections = {name: document[name] for name in COMMAND_SECTIONS if document.get(name)}
    return {} if not sections or approval.is_approved(root, sections) else sections


def _read_document(path: Path) -> dict[str, Any]:
    """Return the values in a file; none if there is no such file."""
    try:
        data = durable.read(path)
    except FileNotFoundError:
        return {}
    with storage_errors("inspect", path):
        mode = path.stat().st_mode
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise StorageError(f"{path} can be written by others", hint=f"chmod go-w {path}")
    try:
        document: dict[str, Any] = msgspec.toml.decode(data)
        _refuse_unknown(document)
    except (msgspec.DecodeError, ValueError) as error:
        raise _invalid(path, error) from error
    _convert(document, path)
    return document


def _convert(document: dict[str, Any], path: Path) -> Settings:
    try:
        return msgspec.convert(document, Settings)
    except (msgspec.DecodeError, ValueError) as error:
        raise _invalid(path, error) from error


def _invalid(path: Path, error: Exception) -> InvalidInput:
    return InvalidInput(f"{path}: {error}", hint="the how-to on configuration lists all settings")


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
