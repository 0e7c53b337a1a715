"""
What the tools return: the shapes that people's agents know, as types.

The SDK draws the tools' output schemas from these. Its pydantic wants the
``TypedDict`` of typing_extensions before Python 3.12, and with it its ``NotRequired``.
"""

from __future__ import annotations

from typing import Any

from typing_extensions import NotRequired, TypedDict  # noqa: UP035 - see above


class CreateTaskResult(TypedDict):
    """A task that was made."""

    success: bool
    task_id: str
    description: str
    priority: str
    workspace: str
    status: str


class DeployResult(TypedDict):
    """An agent that runs."""

    success: bool
    agent_id: str
    tmux_session: str
    type: str
    parent: str
    task_id: str
    status: str
    workspace: str
    deployment_method: str


class CleanupSummary(TypedDict):
    """What became of the things that an agent held."""

    success: bool
    tmux_session_killed: bool
    prompt_file_deleted: bool
    log_files_archived: bool
    verified_no_zombies: bool
    errors: list[str]
    archived_files: list[str]


class KillResult(TypedDict):
    """An agent's end; with ``handed_over``, its supervisor sees to the rest of it."""

    success: bool
    agent_id: str
    tmux_session: str
    session_killed: bool
    reason: str
    status: str
    cleanup: CleanupSummary
    handed_over: bool
    children: list[str]


class ProgressUpdate(TypedDict):
    """What an agent has said of its progress."""

    timestamp: str
    agent_id: str
    status: str
    progress: int
    message: str


class AgentFinding(TypedDict):
    """Something that an agent has found."""

    timestamp: str
    agent_id: str
    finding_type: str
    severity: str
    message: str
    data: Any


class AgentCounts(TypedDict):
    """How many agents a task has had, has, and has seen end."""

    total_spawned: int
    active: int
    completed: int


class CoordinationInfo(TypedDict):
    """What others are doing; small on purpose."""

    agent_counts: AgentCounts
    recent_findings: list[AgentFinding]


class ReportProgressResult(TypedDict):
    """A progress report that was recorded; with ``handed_over``, the agent's end is on its way."""

    success: bool
    own_update: ProgressUpdate
    coordination_info: CoordinationInfo
    handed_over: NotRequired[bool]


class ReportFindingResult(TypedDict):
    """A finding that was recorded."""

    success: bool
    own_finding: AgentFinding
    coordination_info: CoordinationInfo


class AgentInfo(TypedDict):
    """One agent, in short."""

    id: str
    type: str
    task_id: str
    status: str
    parent: str
    depth: int
    progress: int
    message: str
    started_at: str
    last_update: str
    completed_at: str | None
    end_reason: str
    tmux_session: str


class ListAgentsResult(TypedDict):
    """Agents, oldest first."""

    success: bool
    count: int
    agents: list[AgentInfo]


class TaskAgents(AgentCounts):
    """The agents of a task."""

    agents_list: list[AgentInfo]


class EnhancedProgress(TypedDict):
    """What the agents of a task have last said."""

    recent_updates: list[ProgressUpdate]
    recent_findings: list[AgentFinding]
    average_progress: float


class TaskLimits(TypedDict):
    """How many agents are too many."""

    max_agents: int
    max_depth: int
    max_concurrent: int


class TaskStatusResult(TypedDict):
    """All about a task."""

    success: bool
    task_id: str
    description: str
    status: str
    priority: str
    workspace: str
    agents: TaskAgents
    hierarchy: dict[str, list[str]]
    enhanced_progress: EnhancedProgress
    limits: TaskLimits


class OutputMetadata(TypedDict):
    """How much an agent has written, and how much of it this is."""

    total_lines: int
    total_bytes: int
    matching_lines: int
    returned_lines: int
    truncated: bool


class AgentOutputResult(TypedDict):
    """What an agent has written: text, or with the format "parsed" a list of values."""

    success: bool
    agent_id: str
    session_status: str
    output: str | list[Any]
    source: str
    tmux_session: str
    metadata: NotRequired[OutputMetadata]


class SweepFinding(TypedDict):
    """One thing that a sweep has found."""

    kind: str
    subject: str
    what: str
    proofs: list[str]
    action: str
    reaped: bool
    said: str


class SweepResult(TypedDict):
    """What a sweep has found; ``clean`` means that all could be asked, and nothing is left."""

    success: bool
    clean: bool
    dry_run: bool
    findings: list[SweepFinding]
    left: list[str]
    unknown: list[str]
    alive: list[str]


class TimelineEvent(TypedDict):
    """One moment of an agent's life."""

    timestamp: str
    event: str
    message: str
    data: NotRequired[dict[str, Any]]


class TimelineResult(TypedDict):
    """An agent's life, in the order in which it went."""

    success: bool
    agent_id: str
    task_id: str
    status: str
    events: list[TimelineEvent]
