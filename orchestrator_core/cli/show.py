"""``show``: one agent with its saga and its output; and the result of a recovery."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from orchestrator_core.cli import LEFT, OK, naming
from orchestrator_core.cli.printing import CommandResult, as_text, printable
from orchestrator_core.exceptions import NotFound
from orchestrator_core.orchestrator import Orchestrator

if TYPE_CHECKING:
    import argparse

    from orchestrator_core.deployment.output_reader import AgentOutput
    from orchestrator_core.presets.result import AgentResult
    from orchestrator_core.saga import History, RecoveryReport, StepState

_TAIL = 10  #: The number of lines of the output, by default.
_MAX_SHOWN = 2000  #: Characters of a result; --json has all of it.


def show(arguments: argparse.Namespace) -> CommandResult:
    """Return everything that is known about one agent."""
    orch = Orchestrator(arguments.root, create=False, recover=False)
    agent = naming.find_agent(orch, arguments.agent)
    history = _history(orch, agent.id)
    frames, failures = (history.stack, history.failures) if history else ((), {})
    output = _output(orch, agent.id, arguments)
    result = orch.read_result(agent.id)
    data = {
        "agent": agent.to_dict(),
        "record": dict(agent.record),
        "saga": None if history is None else _saga(history),
        "result": result.to_dict() if _has_result(result) else None,
        "output": str(output),
        "output_range": {
            "offset": output.offset,
            "next_offset": output.next_offset,
            "size": output.size,
            "truncated": output.truncated,
        },
    }
    lines = [
        f"{agent.id}  {agent.status}  {printable(agent.end_reason or agent.message)}".rstrip(),
        f"  task      {agent.task_id}",
        f"  session   {agent.tmux_session}",
        f"  started   {agent.started_at}",
        f"  ended     {agent.completed_at or '-'}",
        f"  saga      {history.state.value if history else 'none: a legacy agent'}",
        *(f"    {_format_step(frame, failures)}" for frame in frames),
        *(_format_result(result) if _has_result(result) else []),
        f"  output    {_describe(output, arguments)}",
        *(f"    {printable(line.expandtabs())}".rstrip() for line in _lines(output)),
    ]
    return CommandResult(data, as_text(lines))


def _output(orch: Orchestrator, agent_id: str, arguments: argparse.Namespace) -> AgentOutput:
    """Return the part of the output that the options name."""
    limit = {} if arguments.max_bytes is None else {"max_bytes": arguments.max_bytes}
    if arguments.offset is not None:
        return orch.read_output(agent_id, offset=arguments.offset, **limit)
    tail = _TAIL if arguments.tail is None else arguments.tail
    return orch.read_output(agent_id, tail=tail, **limit)


def _describe(output: AgentOutput, arguments: argparse.Namespace) -> str:
    cut = ", truncated: see --max-bytes" if output.truncated else ""
    if arguments.offset is not None:
        return f"bytes {output.offset} to {output.next_offset} of {output.size}"
    return f"the last {_TAIL if arguments.tail is None else arguments.tail} lines{cut}"


def _lines(output: str) -> list[str]:
    """Return the lines; only a newline ends one."""
    return output.removesuffix("\n").split("\n") if output else []


def _history(orch: Orchestrator, agent_id: str) -> History | None:
    """Return the saga's history; a legacy agent has none."""
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


def _has_result(result: AgentResult) -> bool:
    """Return whether the agent's output has anything to show: it may only say why it failed."""
    return result.format is not None or result.error is not None


def _format_result(result: AgentResult) -> list[str]:
    """Return the lines of the result in the agent's own output."""
    states = {None: "no end", False: "success", True: "error"}
    usage = result.usage
    facts = [
        f"{states[result.is_error]}, from {result.format or 'the last line of text'}",
        None if result.cost_usd is None else f"${result.cost_usd:.4f}",
        None if result.turns is None else f"{result.turns} turns",
        None if result.duration_ms is None else f"{result.duration_ms / 1000:.1f} s",
        None if usage is None else f"{usage.input_tokens}+{usage.output_tokens} tokens",
        None if result.session_id is None else f"session {result.session_id}",
    ]
    text = result.error or result.result or result.last_message
    shown = (text or "").expandtabs()[:_MAX_SHOWN].splitlines()
    denied = ", ".join(denial.tool for denial in result.permission_denials)
    return [
        f"  result    {printable(', '.join(filter(None, facts)))}",
        *([f"  retried   {printable(result.retry)}"] if result.retry else []),
        *([f"  denied    {printable(denied)}"] if denied else []),
        *(f"    {printable(line)}".rstrip() for line in shown),
    ]


def _format_step(frame: StepState, failures: dict[str, str]) -> str:
    undone = "" if frame.outcome is None else frame.outcome.result.value
    if frame.outcome is not None and "kept" in frame.outcome.detail:
        undone = f"{undone}: {printable(str(frame.outcome.detail['kept']))}"
    failed = f"FAILED: {failures[frame.name]}" if frame.name in failures else ""
    return f"{'done' if frame.done else '-':<5} {frame.name:<16} {undone}{failed}".rstrip()


def format_recovery(report: RecoveryReport) -> CommandResult:
    """Return the result of a recovery, with its exit code."""
    lines = [
        f"{saga_id}: {'closed' if unwound.closed else 'STUCK'} "
        f"({unwound.why.reason.value}: {printable(unwound.why.message)})"
        for saga_id, unwound in report.unwound.items()
    ]
    lines += [f"  {step.step}: {step.error}" for u in report.unwound.values() for step in u.failed]
    lines += [
        f"{saga_id}: STUCK, to be retried later; --force retries now" for saga_id in report.waiting
    ]
    lines += [f"{saga_id}: busy: another process owns it" for saga_id in report.busy]
    lines += [
        f"{saga_id}: journal damaged, kept as {kept}" for saga_id, kept in report.damaged.items()
    ]
    lines += [f"{saga_id}: {why}" for saga_id, why in report.failed.items()]
    recovered = sum(unwound.closed for unwound in report.unwound.values())
    stuck = f", {len(report.stuck)} STUCK" if report.stuck else ""
    lines.append(f"{len(report.alive)} alive, {recovered} recovered{stuck}")
    left = bool(report.stuck or report.failed)
    return CommandResult(msgspec.to_builtins(report), as_text(lines), LEFT if left else OK)
