"""Agents, tasks and reports, as their records were when they were read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from orchestrator_core.model.environment import ORCHESTRATOR
from orchestrator_core.model.status import Status, is_active, known_status
from orchestrator_core.system.clock import parse_timestamp

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@attrs.frozen(kw_only=True)
class Agent:
    """An agent's record, as it was when it was read."""

    id: str
    type: str
    task_id: str
    status: str = attrs.field(converter=known_status)  #: A Status, or the old system's text.
    tmux_session: str
    parent: str = ORCHESTRATOR
    depth: int = 1
    started_at: str = ""
    last_update: str = ""
    completed_at: str | None = None
    progress: int = 0
    message: str = ""
    exit_code: int | None = None
    exit_signal: int | None = None
    end_reason: str = ""
    key: str | None = None
    deadline_at: float | None = None
    record: Mapping[str, Any] = attrs.field(factory=dict, repr=False)  #: As it is on disk.

    @property
    def is_active(self) -> bool:
        """Whether the agent had not ended."""
        return is_active(self.status)

    @classmethod
    def from_record(cls, task_id: str, record: Mapping[str, Any]) -> Agent:
        """Return the agent of a registry's record; the old system's may lack any field."""
        agent_id = str(record.get("id") or "?")
        values: dict[str, Any] = {
            "status": Status.RUNNING.value,
            "tmux_session": f"agent_{agent_id}",
            "type": "unknown",
            "end_reason": str(record.get("termination_reason") or ""),
        }
        for name, convert in _CONVERTERS.items():
            value = convert(record.get(name))
            if value is not None:
                values[name] = value
        return cls(id=agent_id, task_id=task_id, record=dict(record), **values)

    def to_dict(self) -> dict[str, Any]:
        """Return the agent as JSON-safe values, without its record."""
        return attrs.asdict(self, filter=lambda field, _: field.name != "record")


def _str_or_none(value: object) -> str | None:
    return None if value is None else str(value)


def _int_or_none(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _float_or_none(value: object) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number else None  # type: ignore[arg-type]


#: A value of a wrong type is text, or is left out: people and other programs write records, too.
_CONVERTERS: dict[str, Callable[[object], Any]] = {
    **dict.fromkeys(("type", "status", "tmux_session", "parent", "started_at"), _str_or_none),
    **dict.fromkeys(("last_update", "completed_at", "message", "end_reason", "key"), _str_or_none),
    **dict.fromkeys(("depth", "progress", "exit_code", "exit_signal"), _int_or_none),
    "deadline_at": _float_or_none,
}


@attrs.frozen(kw_only=True)
class Task:
    """
    A task's record, as it was when it was read.

    ``status`` is INITIALIZED before the first agent, ACTIVE while an agent is alive, and ENDED
    when all agents have ended; or what another program has written into the record.
    """

    id: str
    description: str
    created_at: str
    workspace: str
    status: str = "INITIALIZED"
    priority: str = "P2"
    record: Mapping[str, Any] = attrs.field(factory=dict, repr=False, eq=False)  #: No agents.

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Task:
        """Return the task of a registry's document, also of the old system's."""
        return cls(
            id=str(document["task_id"]),
            description=str(document.get("task_description", "")),
            created_at=str(document.get("created_at", "")),
            workspace=str(document.get("workspace", "")),
            status=_task_status(document),
            priority=str(document.get("priority") or "P2"),
            record={
                name: value
                for name, value in document.items()
                if name not in ("agents", "agent_hierarchy")
            },
        )

    @property
    def age_key(self) -> tuple[float, str]:
        """A key that sorts tasks, the oldest first; tasks of the same millisecond by their ids."""
        return parse_timestamp(self.created_at) or 0.0, self.id

    def to_dict(self) -> dict[str, Any]:
        """Return the task as JSON-safe values, without its record."""
        return attrs.asdict(self, filter=lambda field, _: field.name != "record")


def _task_status(document: Mapping[str, Any]) -> str:
    written = str(document.get("status") or _INITIALIZED)
    agents = document.get("agents")
    if written != _INITIALIZED or not isinstance(agents, list) or not agents:
        return written
    alive = any(isinstance(one, dict) and is_active(one.get("status")) for one in agents)
    return "ACTIVE" if alive else "ENDED"


_INITIALIZED = "INITIALIZED"  #: Each task's registry is written with it.


# --- what agents report ---------------------------------------------------------------------------


def _status(value: object) -> str:
    return known_status(str(value))


@attrs.frozen(kw_only=True)
class ReportedFinding:
    """Something that an agent has found."""

    timestamp: str = attrs.field(default="", converter=str)
    agent_id: str = attrs.field(default="", converter=str)
    finding_type: str = attrs.field(default="", converter=str)
    severity: str = attrs.field(default="", converter=str)
    message: str = attrs.field(default="", converter=str)
    data: Any = None

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-safe values."""
        return attrs.asdict(self, recurse=False)


@attrs.frozen(kw_only=True)
class ReportedProgress:
    """The progress that an agent reported."""

    timestamp: str = attrs.field(default="", converter=str)
    agent_id: str = attrs.field(default="", converter=str)
    status: str = attrs.field(default="", converter=_status)  #: A Status, or the old system's text.
    progress: int | None = attrs.field(default=None, converter=_int_or_none)  #: In per cent.
    message: str = attrs.field(default="", converter=str)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-safe values."""
        return attrs.asdict(self, recurse=False)
