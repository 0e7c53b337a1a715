"""Errors of tools as results: one text for the model, the same facts as values."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from mcp.types import CallToolResult, TextContent

from orchestrator_core.exceptions import OrchestratorError
from orchestrator_core.mcp.schemas import CleanupSummary, select

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from orchestrator_core.model.outcome import EndReport

T = TypeVar("T")
P = ParamSpec("P")


def errors_as_results(
    tool: Callable[P, Awaitable[T]],
) -> Callable[P, Awaitable[T | CallToolResult]]:
    """Return *tool*, with each error of the library as a result that is marked as an error."""

    @functools.wraps(tool)
    async def wrapper(*args: P.args, **kwargs: P.kwargs) -> T | CallToolResult:
        try:
            return await tool(*args, **kwargs)
        except OrchestratorError as error:
            return _error_result(error)

    return wrapper


def _error_result(error: OrchestratorError) -> CallToolResult:
    values = error.to_dict()
    lines = [str(error)]
    lines += [f"it wrote: {line}" for line in str(values.get("output", "")).splitlines()[-5:]]
    lines += [f"left behind: {thing}" for thing in error.leaked]
    lines += [f"hint: {error.hint}"] * bool(error.hint)
    return CallToolResult(
        content=[TextContent(type="text", text="\n".join(lines))],
        structured_content={"success": False, **values},
        is_error=True,
    )


class DeployRefused(OrchestratorError):
    """A deployment that was refused before any step, with the fields of a failed one."""

    def __init__(self, error: OrchestratorError) -> None:
        super().__init__(str(error), hint=error.hint, leaked=error.leaked)
        self._values = error.to_dict()

    def to_dict(self) -> dict[str, object]:
        """Return it as JSON-safe values, under the names of a failed deployment."""
        return {**self._values, "cleanup_performed": False, "resources_cleaned": {}}


class LeftoversError(OrchestratorError):
    """An agent has ended, and some of its resources remain."""

    code = "stuck"

    def __init__(self, end: EndReport) -> None:
        super().__init__(
            f"agent {end.agent_id!r} has ended with leftovers: {'; '.join(end.errors)}",
            hint="fix the cause; the cleanup is retried by itself, and by sweep_agents with reap",
            leaked=[*end.survivors, *end.errors],
        )
        self._end = end

    def to_dict(self) -> dict[str, object]:
        """Return it as JSON-safe values, with the fields of a kill."""
        return super().to_dict() | {
            "agent_id": self._end.agent_id,
            "status": self._end.status,
            "reason": self._end.reason,
            "session_killed": self._end.tmux_session_killed,
            "cleanup": select(self._end, CleanupSummary),
        }


def raise_if_not_clean(end: EndReport) -> None:
    """
    Return if nothing of an agent remains, or its supervisor still cleans up.

    Raises:
        LeftoversError: Its saga is STUCK.
    """
    if not end.success and not end.handed_over:
        raise LeftoversError(end)
