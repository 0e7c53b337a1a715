"""
The outcome of an agent's life: the reason for its end, and the report of the end.

The first end wins. Its reason is an :class:`~orchestrator_core.saga.Unwind` in the
agent's journal. Only this module makes such reasons, so every process that finds a dead
agent (its supervisor, its deployer, a recovery years later) decides the same from the same
facts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict

import attrs
import msgspec

from orchestrator_core.model.bounds import shortened
from orchestrator_core.model.status import Status, known_status
from orchestrator_core.saga import Reason, Unwind
from orchestrator_core.system.clock import timestamp
from orchestrator_core.system.deprecation import warn_renamed
from orchestrator_core.system.json_values import JsonValues

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator_core.saga import History, UnwindReport
    from orchestrator_core.system.processes.protocol import ExitRecord


def terminal_reason(
    status: Status, reason: str, *, by: str, keep_logs: bool = True, cascade: bool = True
) -> Unwind:
    """Return the reason to unwind an agent that ends with *status*; a long text is shortened."""
    detail = {} if cascade else {"cascade": False}
    message, facts = shortened(reason), {"status": status.value, "by": by}
    return Unwind.terminal(message, **facts, keep_logs=keep_logs, **detail)


def ends_children(why: Unwind) -> bool:
    """Return whether an agent's children end with it."""
    return why.detail.get("cascade") is not False


@attrs.frozen(kw_only=True)
class OutputVerdict:
    """What the output of a preset's tool says about its run."""

    failed: bool = False  #: It reports an error, or lacks the result that every success has.
    reason: str = ""  #: Why the run failed, in the tool's words; "" if the output does not say.


_NO_OUTPUT = OutputVerdict()


def decide_end_reason(
    history: History, exit_record: ExitRecord | None, output: OutputVerdict = _NO_OUTPUT
) -> Unwind:
    """
    Return the reason for the end of a committed agent that is dead.

    Its own request to end counts first, then its exit record, then its *output*. An agent
    that fails within the deployment's grace period is a failed deployment, of which nothing
    stays.
    """
    if history.end_request is not None:
        return _with_exit(history.end_request, exit_record)
    if exit_record is None:
        return terminal_reason(
            Status.ERROR, "its session, its supervisor or the machine is gone", by="lost"
        )
    if "settled" not in history.notes and _died_early(history, exit_record):
        why = Unwind.rollback(f"the agent died early: {describe_exit(exit_record, output)}")
        return _with_exit(why, exit_record)
    return _with_exit(_reason_from_exit(exit_record, output), exit_record)


def _died_early(history: History, exit_record: ExitRecord) -> bool:
    is_short = exit_record.ran_s < float(history.labels.get("grace_s", 0.0))
    return exit_record.error is not None or (is_short and not is_clean(exit_record))


def _reason_from_exit(exit_record: ExitRecord, output: OutputVerdict) -> Unwind:
    if exit_record.cause in _TERMINATIONS:
        message, by = _TERMINATIONS[exit_record.cause]
        return terminal_reason(Status.TERMINATED, message, by=by)
    if is_clean(exit_record) and not output.failed:
        return terminal_reason(Status.COMPLETED, "it finished", by="exit")
    return terminal_reason(Status.FAILED, describe_exit(exit_record, output), by="exit")


#: By the cause in an exit record: the message, and the value of ``by``.
_TERMINATIONS = {
    "hangup": ("its tmux session was killed", "hangup"),
    "deadline": ("its deadline passed", "deadline"),
    "term": ("its supervisor got a signal to end it", "signal"),
}


def is_clean(exit_record: ExitRecord) -> bool:
    """Return whether the agent exited by itself, with exit status 0."""
    return exit_record.code == 0 and exit_record.cause in {"exit", "request"}


def describe_exit(exit_record: ExitRecord, output: OutputVerdict = _NO_OUTPUT) -> str:
    """Return a description of an exit, with the reason that the agent's output has."""
    if exit_record.error:
        return exit_record.error
    if exit_record.signal is not None:
        return f"it was killed by signal {exit_record.signal}"
    if output.failed and exit_record.code == 0:
        return output.reason or "it reported an error"
    status = f"it ended with exit status {exit_record.code}"
    return f"{status}: {output.reason}" if output.reason else status


def _with_exit(why: Unwind, exit_record: ExitRecord | None) -> Unwind:
    if exit_record is None:
        return why
    facts = {"exit_code": exit_record.code, "exit_signal": exit_record.signal}
    return attrs.evolve(why, detail={**why.detail, **facts})


class StepRecord(TypedDict):
    """The undo of one step, as the report of an end has it."""

    step: str
    result: str  #: undone, absent, left, abandoned or failed.
    duration_ms: float
    attempts: int
    detail: dict[str, Any]
    error: str


@attrs.frozen(kw_only=True)
class EndReport(JsonValues):
    """
    The end of an agent, and what became of each thing that it held.

    - ``success``: nothing of the agent is left.
    - ``verified_no_zombies``: no process of the agent is alive. ``method`` names the method,
      which finds every process that the agent started.
    - ``handed_over``: the end is recorded, and another process carries it out, because the
      caller is part of what ends, or because it cannot see the agent from its pid namespace;
      ``errors`` has the second reason. The other fields are still to come;
      :meth:`Orchestrator.wait` waits for them.
    - ``children``: the reports of the agents that ended with this one, in the order of
      their ends. Each contains its own children's.
    """

    agent_id: str
    status: str = attrs.field(converter=known_status)  #: Final; "" for a failed deployment.
    reason: str
    by: str = ""
    success: bool = False
    handed_over: bool = False
    tmux_session_killed: bool = False
    prompt_file_deleted: bool = False
    log_files_archived: bool = False
    verified_no_zombies: bool = False
    method: str = ""
    survivors: tuple[str, ...] = ()  #: Processes that are still alive: "pid (name)".
    errors: tuple[str, ...] = ()
    archived_files: tuple[str, ...] = ()
    bytes_freed: int = 0
    steps: tuple[StepRecord, ...] = ()
    duration_ms: float = 0.0
    exit_code: int | None = None
    exit_signal: int | None = None
    children: tuple[EndReport, ...] = ()
    kept: tuple[str, ...] = ()  #: What extra steps have left on purpose, with its path.

    @classmethod
    def from_unwind(cls, report: UnwindReport) -> EndReport:
        """
        Return the report of an unwinding, with the field names that other tools know.

        Its children's reports are summaries; their journals have the full ones.
        """
        results = {step.step: step.result for step in report.steps}
        details = {step.step: step.detail for step in report.steps}
        spawn, tee, prompt, children = (
            details.get(step, {})
            for step in ("spawn_tmux", "tee_log", "write_prompt", "accept_children")
        )
        terminal = report.why.reason is Reason.TERMINAL
        return cls(
            # A saga that adopted an agent's leftovers has another id than the agent.
            agent_id=report.why.detail.get("agent_id", report.saga_id),
            status=report.why.detail.get("status", "") if terminal else "",
            reason=report.why.message,
            by=report.why.detail.get("by", ""),
            success=report.closed,
            tmux_session_killed=results.get("spawn_tmux") in {"undone", "absent"},
            prompt_file_deleted=results.get("write_prompt") in {"undone", "absent"},
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
    def from_record(cls, record: Mapping[str, Any]) -> EndReport | None:
        """
        Return the report that an agent's record has: all of it but the single steps.

        None: the record has none, or another program changed it.
        """
        result = record.get("auto_cleanup_result")
        if not isinstance(result, dict):
            return None
        known = {field.name for field in attrs.fields(cls)} - {"steps", "children"}
        values = {name: value for name, value in result.items() if name in known}
        names = [name for name in result.get("children") or () if isinstance(name, str)]
        children = [{"agent_id": name, "status": "", "reason": ""} for name in names]
        try:
            return attrs.evolve(msgspec.convert({**values, "children": children}, cls))
        except msgspec.ValidationError:
            return None

    @classmethod
    def of(cls, report: UnwindReport) -> EndReport:
        """Return :meth:`from_unwind`, of which this is the old name."""
        warn_renamed("EndReport.of", "EndReport.from_unwind")
        return cls.from_unwind(report)


def final_status(why: Unwind) -> dict[str, Any]:
    """Return the fields of an end, under the names that people's tools know."""
    now = timestamp()
    status = why.detail["status"]
    end = {
        "status": status,
        "completed_at": now,
        "last_update": now,
        "end_reason": why.message,
        "exit_code": why.detail.get("exit_code"),
        "exit_signal": why.detail.get("exit_signal"),
    }
    if status == Status.TERMINATED.value:
        end |= {"terminated_at": now, "termination_reason": why.message}
    return end


def cleanup_record(report: UnwindReport, at: str) -> dict[str, Any]:
    """Return the fields that a record gets when its agent's cleanup ended, at the time *at*."""
    result = EndReport.from_unwind(report).to_dict()
    # The journal keeps the steps. Each update of a registry writes all records again.
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
