"""What each command does: one call of the library, and how its result reads."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from orchestrator_core.exceptions import InvalidInput, OrchestratorError
from orchestrator_core.orchestrator import Orchestrator

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from orchestrator_core.agents import Agent


@attrs.frozen
class Result:
    """What a command has come to."""

    data: Any  #: For ``--json``.
    text: str  #: For people.
    code: int = 0


def run(arguments: argparse.Namespace) -> Result:
    """Run the command that was given."""
    command: Callable[[argparse.Namespace], Result] = _COMMANDS[arguments.command]
    return command(arguments)


def _demo(arguments: argparse.Namespace) -> Result:
    from orchestrator_core.cli.demo import demo  # noqa: PLC0415 - its own world

    return demo(root=arguments.root, directory=arguments.directory)


def _deploy(arguments: argparse.Namespace) -> Result:
    from orchestrator_core.agents import ORCHESTRATOR, AgentSpec  # noqa: PLC0415 - as below

    spec = AgentSpec(
        type=arguments.type,
        prompt=_prompt(arguments),
        command=arguments.cmd,
        cwd=arguments.cwd,
        env={name: _variable(name) for name in arguments.env},
        parent=arguments.parent or ORCHESTRATOR,
        deadline_s=arguments.deadline,
        key=arguments.key,
    )
    orch = Orchestrator(arguments.root)
    if arguments.new_task is not None:
        task_id = orch.create_task(arguments.new_task, key=arguments.key).id
    else:
        task_id = arguments.task
    agent = orch.deploy(task_id, spec, grace_s=arguments.grace)
    return Result(agent.to_dict(), agent.id)


def _prompt(arguments: argparse.Namespace) -> str:
    if arguments.prompt is not None:
        return str(arguments.prompt)
    try:
        if arguments.prompt_file == "-":
            return sys.stdin.read()
        return Path(arguments.prompt_file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"the prompt cannot be read: {error}") from error


def _variable(name: str) -> str:
    try:
        return os.environ[name]
    except KeyError:
        raise InvalidInput(f"--env {name}: there is no such variable here") from None


def _ps(arguments: argparse.Namespace) -> Result:
    orch = Orchestrator(arguments.root)
    status = None if arguments.all else "active"
    agents = orch.agents(task_id=arguments.task, status=status)
    return Result([agent.to_dict() for agent in agents], _table(agents))


def _table(agents: list[Agent]) -> str:
    if not agents:
        return "no agents"
    rows = [("AGENT", "STATUS", "%", "SINCE", "TASK", "MESSAGE")]
    rows += [
        (
            agent.id,
            agent.status,
            str(agent.progress),
            agent.started_at[:19],
            agent.task_id,
            (agent.end_reason or agent.message)[:60],
        )
        for agent in agents
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _show(arguments: argparse.Namespace) -> Result:
    from orchestrator_core.cli.story import tell  # noqa: PLC0415 - for one command

    orch = Orchestrator(arguments.root, recover=False)
    return tell(orch, arguments.agent, tail=arguments.tail)


def _kill(arguments: argparse.Namespace) -> Result:
    orch = Orchestrator(arguments.root, recover=False)
    reports, lines, code = [], [], 0
    for agent_id in arguments.agents:
        try:
            end = orch.terminate(
                agent_id, reason=arguments.reason, keep_logs=not arguments.delete_logs
            )
        except OrchestratorError as error:
            from orchestrator_core.cli import code_of  # noqa: PLC0415 - they import each other

            reports.append(error.to_dict() | {"agent_id": agent_id, "success": False})
            lines.append(f"{agent_id}: {error}")
            code = max(code, code_of(error))
            continue
        reports.append(end.to_dict())
        lines.append(_told(end))
        if not (end.success or end.handed_over):
            code = 3
    return Result(reports, "\n".join(lines), code)


def _told(end: Any) -> str:  # noqa: ANN401 - an EndReport; its import is not needed here
    if end.handed_over:
        return f"{end.agent_id}: ends as {end.status}; its supervisor sees to it"
    left = "" if end.success else f"; NOT GIVEN BACK: {'; '.join(end.errors)}"
    proof = "proven" if end.verified_no_zombies else "unproven"
    return (
        f"{end.agent_id}: {end.status or 'rolled back'} ({end.reason}), "
        f"no process left ({proof} by {end.method}), {end.bytes_freed} bytes freed, "
        f"{len(end.archived_files)} files archived{left}"
    )


def _progress(arguments: argparse.Namespace) -> Result:
    # No recovery: this runs inside agents, often, and others recover.
    orch = Orchestrator(arguments.root, recover=False)
    receipt = orch.report_progress(
        arguments.agent,
        arguments.status,
        message=arguments.message,
        progress=arguments.progress,
    )
    text = _told(receipt.end) if receipt.end else f"{receipt.agent_id}: {arguments.status}"
    left = receipt.end is not None and not (receipt.end.success or receipt.end.handed_over)
    return Result(receipt.to_dict(), text, 3 if left else 0)


def _recover(arguments: argparse.Namespace) -> Result:
    from orchestrator_core.cli.story import tell_recovery  # noqa: PLC0415 - for one command

    orch = Orchestrator(arguments.root, recover=False)
    if arguments.abandon is not None:
        if not (arguments.agent and arguments.reason):
            raise InvalidInput("--abandon needs the agent, and a --reason")
        orch.abandon(arguments.agent, arguments.abandon, reason=arguments.reason)
    force = arguments.force or arguments.abandon is not None
    return tell_recovery(orch.recover(arguments.agent, force=force))


def _unwind(arguments: argparse.Namespace) -> Result:
    # We were a supervisor a moment ago, and held SIGTERM back across the exec.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    end = Orchestrator(arguments.root, recover=False).finish(arguments.agent)
    return Result(end.to_dict(), _told(end), 0 if end.success else 3)


_COMMANDS = {
    "demo": _demo,
    "deploy": _deploy,
    "ps": _ps,
    "show": _show,
    "kill": _kill,
    "progress": _progress,
    "recover": _recover,
    "unwind": _unwind,
}
