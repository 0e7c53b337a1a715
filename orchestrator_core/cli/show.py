"""Tell the story of one agent, or of one recovery, to people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from orchestrator_core.cli.printing import Result, printable
from orchestrator_core.exceptions import NotFound

if TYPE_CHECKING:
    from orchestrator_core.orchestrator import Orchestrator
    from orchestrator_core.presets.result import AgentResult
    from orchestrator_core.saga import History, RecoveryReport, StepState

_SHOWN = 2000  #: Characters of a result; all of it is in --json.


def tell(orch: Orchestrator, agent_id: str | None, *, tail: int) -> Result:
    """Return all there is to know about one agent."""
    agent = orch.agent(agent_id)
    history = _history(orch, agent.id)
    output = orch.read_output(agent.id, tail=tail)
    result = orch.read_result(agent.id)
    data = {
        "agent": agent.to_dict(),
        "record": dict(agent.record),
        "saga": None if history is None else _saga(history),
        "result": None if result.format is None else result.to_dict(),
        "output": output,
    }
    lines = [
        f"{agent.id}  {agent.status}  {printable(agent.end_reason or agent.message)}".rstrip(),
        f"  task      {agent.task_id}",
        f"  session   {agent.tmux_session}",
        f"  started   {agent.started_at}",
        f"  ended     {agent.completed_at or '-'}",
        f"  saga      {history.state.value if history else 'none: deployed without us'}",
        *(f"    {line}" for line in (_steps(history) if history else ())),
        *([] if result.format is None else _result(result)),
        f"  output    the last {tail} lines",
        *(f"    {printable(line.expandtabs())}".rstrip() for line in output.splitlines()),
    ]
    return Result(data, "\n".join(lines))


def _history(orch: Orchestrator, agent_id: str) -> History | None:
    """Return the saga's past; the agents of the old system have none."""
    try:
        return orch.history(agent_id)
    except NotFound:
        return None


def _saga(history: History) -> dict[str, Any]:
    return {
        "state": history.state.value,
        "begun_at": history.begun_at,
        "steps": [
            {
                "step": frame.name,
                "done": frame.done,
                "receipt": frame.receipt,
                "undone": None if frame.outcome is None else frame.outcome.result.value,
            }
            for frame in history.stack
        ],
        "why": None if history.why is None else msgspec.to_builtins(history.why),
        "failures": history.failures,
        "retry_at": history.retry_at or None,
    }


def _result(result: AgentResult) -> list[str]:
    """Return what the agent's own output says of its result."""
    ends = {None: "no end yet", False: "success", True: "error"}
    usage = result.usage
    told = [
        f"{ends[result.is_error]}, says {result.format}",
        None if result.cost_usd is None else f"${result.cost_usd:.4f}",
        None if result.turns is None else f"{result.turns} turns",
        None if result.duration_ms is None else f"{result.duration_ms / 1000:.1f} s",
        None if usage is None else f"{usage.input_tokens}+{usage.output_tokens} tokens",
        None if result.session_id is None else f"session {result.session_id}",
    ]
    said = (result.error if result.is_error else None) or result.result or result.last_message
    shown = (said or "").expandtabs()[:_SHOWN].splitlines()
    return [
        f"  result    {printable(', '.join(filter(None, told)))}",
        *(f"    {printable(line)}".rstrip() for line in shown),
    ]


def _steps(history: History) -> list[str]:
    return [_step(frame, history.failures.get(frame.name)) for frame in history.stack]


def _step(frame: StepState, failure: str | None) -> str:
    undone = "" if frame.outcome is None else frame.outcome.result.value
    if frame.outcome is not None and "kept" in frame.outcome.detail:
        undone = f"{undone}: {printable(str(frame.outcome.detail['kept']))}"
    failed = "" if failure is None else f"FAILED: {failure}"
    return f"{'done' if frame.done else '-':<5} {frame.name:<16} {undone}{failed}".rstrip()


def tell_recovery(report: RecoveryReport) -> Result:
    """Return what a recovery has found and done."""
    lines = [
        f"{saga_id}: {'closed' if unwound.closed else 'STUCK'} "
        f"({unwound.why.reason.value}: {printable(unwound.why.message)})"
        for saga_id, unwound in report.unwound.items()
    ]
    lines += [f"  {step.step}: {step.error}" for u in report.unwound.values() for step in u.failed]
    lines += [
        f"{saga_id}: STUCK, to be tried again later; --force tries now"
        for saga_id in report.waiting
    ]
    lines += [f"{saga_id}: busy, in the hands of a living owner" for saga_id in report.busy]
    lines += [
        f"{saga_id}: journal damaged, kept as {kept}" for saga_id, kept in report.damaged.items()
    ]
    lines += [f"{saga_id}: {why}" for saga_id, why in report.failed.items()]
    recovered = sum(unwound.closed for unwound in report.unwound.values())
    stuck = f", {len(report.stuck)} STUCK" if report.stuck else ""
    lines.append(f"{len(report.alive)} alive, {recovered} recovered{stuck}")
    left = bool(report.stuck or report.failed)
    return Result(msgspec.to_builtins(report), "\n".join(lines), 3 if left else 0)
