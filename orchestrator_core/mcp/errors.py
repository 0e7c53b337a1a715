"""What tools raise of their own: errors of ours, with what old clients look at in a failure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator_core.exceptions import OrchestratorError

if TYPE_CHECKING:
    from orchestrator_core.mcp import schemas
    from orchestrator_core.model.outcome import EndReport


def raise_if_not_clean(end: EndReport) -> None:
    """
    See that nothing is left of an agent, or that somebody else sees to it.

    Raises:
        Leftovers: It is STUCK.
    """
    if not end.success and not end.handed_over:
        raise Leftovers(end)


class DeployRefused(OrchestratorError):
    """A deployment was refused before anything was taken: told as one that failed."""

    def __init__(self, error: OrchestratorError) -> None:
        super().__init__(str(error), hint=error.hint, leaked=error.leaked)
        self._told = error.to_dict()

    def to_dict(self) -> dict[str, object]:
        """Return it as JSON-safe values, as a deployment that failed is told."""
        return {**self._told, "cleanup_performed": False, "resources_cleaned": {}}


class Leftovers(OrchestratorError):
    """An agent was ended, and something of it is left."""

    code = "stuck"

    def __init__(self, end: EndReport) -> None:
        super().__init__(
            f"agent {end.agent_id!r} was not wholly given back: {'; '.join(end.errors)}",
            hint="mend the cause; it is tried again by itself, and by sweep_agents with reap",
            leaked=[*end.survivors, *end.errors],
        )
        self._end = end

    def to_dict(self) -> dict[str, object]:
        """Return it as JSON-safe values, with what an end is told by."""
        return super().to_dict() | {
            "agent_id": self._end.agent_id,
            "status": self._end.status,
            "reason": self._end.reason,
            "session_killed": self._end.tmux_session_killed,
            "cleanup": cleanup(self._end),
        }


def cleanup(end: EndReport) -> schemas.CleanupSummary:
    """Return what was given back, under the names that old clients know."""
    return {
        "success": end.success,
        "tmux_session_killed": end.tmux_session_killed,
        "prompt_file_deleted": end.prompt_file_deleted,
        "log_files_archived": end.log_files_archived,
        "verified_no_zombies": end.verified_no_zombies,
        "errors": list(end.errors),
        "archived_files": list(end.archived_files),
    }
