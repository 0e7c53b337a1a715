"""
Ends: why an agent's life is over, and the report of how it was ended.

The first end wins. Its reason is an :class:`~orchestrator_core.saga.Unwind` in
the agent's journal, made here and nowhere else, so that whoever finds a dead
agent (its supervisor, its deployer, a recovery years later) comes to the same
verdict from the same facts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import msgspec

from orchestrator_core.model.status import Status
from orchestrator_core.saga import Reason, Unwind
from orchestrator_core.system.deprecation import warn_renamed

if TYPE_CHECKING:
    from orchestrator_core.saga import History, UnwindReport
    from orchestrator_core.system.processes.protocol import ExitRecord


def terminal_reason(
    status: Status, reason: str, *, by: str, keep_logs: bool = True, cascade: bool = True
) -> Unwind:
    """Return the reason to unwind an agent whose life has come to *status*."""
    spared = {} if cascade else {"cascade": False}
    return Unwind.terminal(reason, status=status.value, by=by, keep_logs=keep_logs, **spared)


def ends_children(why: Unwind) -> bool:
    """Tell whether an agent's children end with it."""
    return why.detail.get("cascade") is not False


def decide_end_reason(history: History, witnessed: ExitRecord | None) -> Unwind:
    """
    Say how a committed agent that is dead has ended.

    Its own request counts first, then what its supervisor witnessed. A failure
    within the deployment's grace is a deployment that failed, and leaves nothing.
    """
    if history.end_request is not None:
        return _with_exit(history.end_request, witnessed)
    if witnessed is None:
        return terminal_reason(
            Status.ERROR, "its session, its supervisor or the machine went", by="lost"
        )
    if "settled" not in history.notes and _died_early(history, witnessed):
        return _with_exit(
            Unwind.rollback(f"the agent died early: {describe_exit(witnessed)}"), witnessed
        )
    return _with_exit(_reason_from_exit(witnessed), witnessed)


def _died_early(history: History, witnessed: ExitRecord) -> bool:
    grace_s = float(history.labels.get("grace_s", 0.0))
    return witnessed.error is not None or (not is_clean(witnessed) and witnessed.ran_s < grace_s)


def _reason_from_exit(witnessed: ExitRecord) -> Unwind:
    if witnessed.cause == "hangup":
        return terminal_reason(Status.TERMINATED, "its tmux session was killed", by="hangup")
    if witnessed.cause == "deadline":
        return terminal_reason(Status.TERMINATED, "its deadline passed", by="deadline")
    if witnessed.cause == "term":
        return terminal_reason(Status.TERMINATED, "its supervisor was told to end it", by="signal")
    if is_clean(witnessed):
        return terminal_reason(Status.COMPLETED, "it finished", by="exit")
    return terminal_reason(Status.FAILED, describe_exit(witnessed), by="exit")


def is_clean(witnessed: ExitRecord) -> bool:
    """Tell whether the agent left by itself, with exit status 0."""
    return witnessed.code == 0 and witnessed.cause in {"exit", "request"}


def describe_exit(witnessed: ExitRecord) -> str:
    """Return an exit in words."""
    if witnessed.error:
        return witnessed.error
    if witnessed.signal is not None:
        return f"it was killed by signal {witnessed.signal}"
    return f"it left with exit status {witnessed.code}"


def _with_exit(why: Unwind, witnessed: ExitRecord | None) -> Unwind:
    if witnessed is None:
        return why
    facts = {"exit_code": witnessed.code, "exit_signal": witnessed.signal}
    return attrs.evolve(why, detail={**why.detail, **facts})


@attrs.frozen(kw_only=True)
class EndReport:
    """
    How an agent was ended, and what became of each thing it held.

    ``success`` means that nothing of it is left. ``verified_no_zombies`` that no
    process of it is alive, by a method that misses nothing it started; ``method``
    says which. With ``handed_over`` the end is recorded and is being carried out
    by somebody else, because the caller is part of what ends: the rest of the
    report is then still to come, and :meth:`Orchestrator.wait` waits for it.
    ``children`` are the reports of the agents that ended with it, in the order in
    which they were ended; theirs are in them.
    """

    agent_id: str
    status: str  #: The status it ended with; for a failed deployment "".
    reason: str
    by: str = ""
    success: bool = False
    handed_over: bool = False
    tmux_session_killed: bool = False
    prompt_file_deleted: bool = False
    log_files_archived: bool = False
    verified_no_zombies: bool = False
    method: str = ""
    survivors: tuple[str, ...] = ()  #: Who is still alive, after all that was done: "pid (name)".
    errors: tuple[str, ...] = ()
    archived_files: tuple[str, ...] = ()
    bytes_freed: int = 0
    steps: tuple[dict[str, Any], ...] = ()
    duration_ms: float = 0.0
    exit_code: int | None = None
    exit_signal: int | None = None
    children: tuple[EndReport, ...] = ()
    kept: tuple[str, ...] = ()  #: What steps of one's own have left on purpose, and where it is.

    @classmethod
    def from_unwind(cls, report: UnwindReport) -> EndReport:
        """
        Return the report of an unwinding, in the words that people's tools know.

        Of its children it tells in short; the whole of their reports is in their journals.
        """
        came_to = {step.step: step.result for step in report.steps}
        details = {step.step: step.detail for step in report.steps}
        spawn, tee, prompt, children = (
            details.get(step, {})
            for step in ("spawn_tmux", "tee_log", "write_prompt", "accept_children")
        )
        terminal = report.why.reason is Reason.TERMINAL
        return cls(
            # A saga that has adopted what an agent left is not named after it.
            agent_id=report.why.detail.get("agent_id", report.saga_id),
            status=report.why.detail.get("status", "") if terminal else "",
            reason=report.why.message,
            by=report.why.detail.get("by", ""),
            success=report.closed,
            tmux_session_killed=came_to.get("spawn_tmux") in {"undone", "absent"},
            prompt_file_deleted=came_to.get("write_prompt") in {"undone", "absent"},
            log_files_archived=bool(tee.get("archived")),
            verified_no_zombies=bool(spawn.get("proven")),
            method=spawn.get("method", ""),
            survivors=tuple(spawn.get("leaked", ())),
            errors=tuple(f"{step.step}: {step.error}" for step in report.failed),
            archived_files=tuple(tee.get("archived", ())),
            bytes_freed=tee.get("bytes_freed", 0) + prompt.get("bytes_freed", 0),
            steps=tuple(msgspec.to_builtins(report.steps)),
            duration_ms=report.duration_ms,
            exit_code=report.why.detail.get("exit_code"),
            exit_signal=report.why.detail.get("exit_signal"),
            children=tuple(map(_from_summary, children.get("children", ()))),
            kept=tuple(str(step.detail["kept"]) for step in report.steps if "kept" in step.detail),
        )

    @classmethod
    def of(cls, report: UnwindReport) -> EndReport:
        """Return :meth:`from_unwind`, of which this is the old name."""
        warn_renamed("EndReport.of", "EndReport.from_unwind")
        return cls.from_unwind(report)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-safe values."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return plain


def cleanup_record(report: UnwindReport, at: str) -> dict[str, Any]:
    """Return what an agent's record says of its end when all of it is known, from *at* on."""
    result = EndReport.from_unwind(report).to_dict()
    # The journal keeps them; every record is written anew with each update of its registry.
    del result["steps"]
    result["children"] = [child["agent_id"] for child in result["children"]]
    return {
        "auto_cleanup_result": result,
        "auto_cleanup_timestamp": at,
        "auto_cleanup_error": "; ".join(result["errors"]) or None,
    }


def _from_summary(summary: dict[str, Any]) -> EndReport:
    defaults = {"status": "", "reason": ""}
    return EndReport(**{**defaults, **summary, "errors": tuple(summary.get("errors", ()))})
