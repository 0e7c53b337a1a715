"""
The results of the tools, as types; the tools' output schemas derive from these.

pydantic needs the ``TypedDict`` of typing_extensions before Python 3.12, and with it the
``NotRequired``.
"""

from __future__ import annotations

from typing import Any, TypeVar, cast

from typing_extensions import NotRequired, TypedDict  # noqa: UP035 - see above

T = TypeVar("T")


def select(source: object, shape: type[T], /, **values: Any) -> T:  # noqa: ANN401 - JSON
    """Return the keys of the TypedDict *shape*: from *values*, or else attributes of *source*."""
    # typing_extensions does not evaluate these annotations, so __required_keys__ has all keys.
    chosen = {
        key: values[key] if key in values else getattr(source, key)
        for key, annotation in shape.__annotations__.items()
        if key in values or "NotRequired" not in str(annotation)
    }
    return cast("T", chosen)


class ToolResult(TypedDict):
    """The part that all results have; a warning is of an argument that was changed or ignored."""

    success: bool
    validation_warnings: NotRequired[list[str]]


class ErrorValues(TypedDict):
    """The values of a refused or failed call; the last four are those of a deployment."""

    error: NotRequired[str]
    error_type: NotRequired[str]
    code: NotRequired[str]
    hint: NotRequired[str]
    leaked: NotRequired[list[str]]
    validation_warnings: NotRequired[list[str]]
    agent_id: NotRequired[str]
    output: NotRequired[str]
    cleanup_performed: NotRequired[bool]
    resources_cleaned: NotRequired[dict[str, bool]]


class CreateTaskResult(ToolResult):
    """A new task."""

    task_id: str
    description: str
    priority: str
    workspace: str
    status: str
    has_enhanced_context: bool


class DeployResult(ToolResult):
    """A running agent."""

    agent_id: str
    tmux_session: str
    type: str
    parent: str
    task_id: str
    status: str
    workspace: str
    deployment_method: str
    tracked_files: dict[str, str]


class CleanupSummary(TypedDict):
    """The result of an agent's cleanup."""

    success: bool
    tmux_session_killed: bool
    prompt_file_deleted: bool
    log_files_archived: bool
    verified_no_zombies: bool
    escalated_to_sigkill: bool
    errors: list[str]
    archived_files: list[str]


class KillResult(ToolResult):
    """An agent's end; with ``handed_over``, its supervisor completes it."""

    agent_id: str
    tmux_session: str
    session_killed: bool
    reason: str
    status: str
    cleanup: CleanupSummary
    handed_over: bool
    children: list[str]


class ProgressUpdate(TypedDict):
    """An agent's report of its progress."""

    timestamp: str
    agent_id: str
    status: str
    progress: int
    message: str


class AgentFinding(TypedDict):
    """A finding of an agent."""

    timestamp: str
    agent_id: str
    finding_type: str
    severity: str
    message: str
    data: Any


class AgentCounts(TypedDict):
    """How many agents of a task there were, are active, and have ended."""

    total_spawned: int
    active: int
    completed: int


class CoordinationInfo(TypedDict):
    """A short summary of the task's agents, with the newest findings first."""

    task_id: str
    agent_counts: AgentCounts
    recent_findings: list[AgentFinding]


class ReportProgressResult(ToolResult):
    """A recorded progress report; with ``handed_over``, the agent's end follows."""

    own_update: ProgressUpdate
    coordination_info: CoordinationInfo
    handed_over: NotRequired[bool]


class ReportFindingResult(ToolResult):
    """A recorded finding."""

    own_finding: AgentFinding
    coordination_info: CoordinationInfo


class AgentInfo(TypedDict):
    """An agent without its output and its reports."""

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


class ListAgentsResult(ToolResult):
    """Agents, oldest first."""

    count: int
    agents: list[AgentInfo]
    unknown: list[str]


class ResultSummary(TypedDict):
    """An agent's result in short. Tokens and cost are None if its tool does not report them."""

    is_error: bool | None
    result: str | None
    error: str | None
    cost_usd: float | None
    input_tokens: int | None
    output_tokens: int | None
    permission_denials: int


class AgentInfoWithResult(AgentInfo):
    """An agent of a task; an ended agent has the result in its output, if there is one."""

    result: NotRequired[ResultSummary]


class TaskAgents(AgentCounts):
    """The agents of a task."""

    agents_list: list[AgentInfoWithResult]


class TokenCounts(TypedDict):
    """The tokens that an agent has used."""

    input_tokens: int
    cached_input_tokens: int
    output_tokens: int


class Denial(TypedDict):
    """A tool call that the agent's program refused, because no permission covered it."""

    tool: str
    input: dict[str, Any]


class AgentResultResult(ToolResult):
    """The result in an agent's own output. A field is None if the output does not have it."""

    agent_id: str
    task_id: str
    status: str
    end_reason: str
    format: str | None
    is_error: bool | None
    result: str | None
    error: str | None
    last_message: str | None
    session_id: str | None
    cost_usd: float | None
    usage: TokenCounts | None
    turns: int | None
    duration_ms: float | None
    permission_denials: list[Denial]
    retry: str | None


class EnhancedProgress(TypedDict):
    """The last reports of the agents of a task, the newest first."""

    total_updates: int
    total_findings: int
    recent_updates: list[ProgressUpdate]
    recent_findings: list[AgentFinding]
    average_progress: float


class TaskLimits(TypedDict):
    """A task's limits."""

    max_agents: int
    max_depth: int
    max_concurrent: int


class TaskStatusResult(ToolResult):
    """A task with its agents and their last reports."""

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
    """The size of an output, and of the part that was returned."""

    total_lines: int
    total_bytes: int
    matching_lines: int
    returned_lines: int
    truncated: bool
    log_source: str
    file_size_bytes: int
    file_path: str
    first_timestamp: NotRequired[str]
    last_timestamp: NotRequired[str]


class AgentOutputResult(ToolResult):
    """An agent's output: text, or with the format "parsed" a list of values."""

    agent_id: str
    session_status: str
    output: str | list[Any]
    source: str
    tmux_session: str
    truncated: bool
    offset: int
    next_offset: int
    size: int
    metadata: NotRequired[OutputMetadata]


class SweepFinding(TypedDict):
    """One finding of a sweep."""

    kind: str
    subject: str
    what: str
    proofs: list[str]
    action: str
    reaped: bool
    said: str


class SweepResult(ToolResult):
    """A sweep's findings; ``clean``: every source could be read, and nothing is left."""

    clean: bool
    dry_run: bool
    findings: list[SweepFinding]
    left: list[str]
    unknown: list[str]
    alive: list[str]


class TimelineEvent(TypedDict):
    """One event of an agent's life."""

    timestamp: str
    event: str
    message: str
    data: NotRequired[dict[str, Any]]


class TimelineResult(ToolResult):
    """An agent's events, oldest first."""

    agent_id: str
    task_id: str
    status: str
    events: list[TimelineEvent]
