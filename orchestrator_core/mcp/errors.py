"""Errors of tools, in the words of a model: one text, and the same facts as values."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from orchestrator_core.exceptions import OrchestratorError

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator_core.mcp.schemas import CleanupSummary
    from orchestrator_core.model.outcome import EndReport

#: By the code of an error: what a model can do, which has tools and no shell.
_HINTS = {
    "not-found": "list_agents lists the agents with their tasks; create_real_task makes a task",
    "limit-reached": "wait until an agent has ended, or end one with kill_real_agent",
    "saga-busy": "try again in some seconds: another process ends this agent",
    "lock-timeout": "try again in some seconds",
    "could-not-ask": "try again in some seconds; nothing was changed",
    "terminal-timeout": "try again in some seconds; sweep_agents shows what is left",
    "task-running": "end its agents with kill_real_agent first",
    "children-left": "sweep_agents with reap retries",
    "undo-failed": "sweep_agents with reap retries",
}
_OWNER = "only the owner of this server can mend this: report the error"
#: Hints for a person at a shell. Those that address the server's owner are for a model, too.
_SHELL = re.compile(r"orchestrator-core |\b(chmod|rm|apt-get|brew|pip|pgrep|gzip|xattr) |(^| )--\w")


def error_text(
    error: OrchestratorError, reword: Callable[[str], str]
) -> tuple[str, dict[str, Any]]:
    """Return the text of *error* for a model, and its values; *reword* changes the hint."""
    hint = reword(_hint(error))
    values = {"success": False, **error.to_dict(), "hint": hint}
    values["error_type"] = values["code"]
    lines = [str(error)]
    lines += [f"it wrote: {line}" for line in str(values.get("output", "")).splitlines()[-5:]]
    lines += [f"left behind: {thing}" for thing in error.leaked]
    lines += [f"hint: {hint}"] * bool(hint)
    return "\n".join(lines), values


def _hint(error: OrchestratorError) -> str:
    if error.hint.startswith("its owner") or not _SHELL.search(error.hint):
        return error.hint
    code = getattr(error, "cause_code", error.code)
    return _HINTS.get(code, _OWNER)


class DeployRefused(OrchestratorError):
    """A deployment that was refused before any step, with the fields of a failed one."""

    def __init__(self, error: OrchestratorError) -> None:
        super().__init__(str(error), hint=error.hint, leaked=error.leaked)
        self._values = error.to_dict()
        self.cause_code = error.code

    def to_dict(self) -> dict[str, object]:
        """Return it as JSON-safe values, under the names of a failed deployment."""
        return {**self._values, "cleanup_performed": False, "resources_cleaned": {}}


class LeftoversError(OrchestratorError):
    """An agent has ended, and some of its resources remain."""

    code = "stuck"

    def __init__(self, end: EndReport, cleanup: CleanupSummary) -> None:
        super().__init__(
            f"agent {end.agent_id!r} has ended with leftovers: {'; '.join(end.errors)}",
            hint="fix the cause; the cleanup is retried by itself, and by sweep_agents with reap",
            leaked=[*end.survivors, *end.errors],
        )
        self._end, self._cleanup = end, cleanup

    def to_dict(self) -> dict[str, object]:
        """Return it as JSON-safe values, with the fields of a kill."""
        return super().to_dict() | {
            "agent_id": self._end.agent_id,
            "status": self._end.status,
            "reason": self._end.reason,
            "session_killed": self._end.tmux_session_killed,
            "cleanup": self._cleanup,
        }


def raise_if_not_clean(end: EndReport, cleanup: CleanupSummary) -> None:
    """
    Return if nothing of an agent remains, or its supervisor still cleans up.

    Raises:
        LeftoversError: Its saga is STUCK.
    """
    if not end.success and not end.handed_over:
        raise LeftoversError(end, cleanup)
