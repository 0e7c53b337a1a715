"""What each command does: one call of the library, and how its result reads."""

from __future__ import annotations

import importlib
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator_core.cli.printing import Result, printable
from orchestrator_core.exceptions import InvalidInput, OrchestratorError
from orchestrator_core.orchestrator import Orchestrator

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from orchestrator_core.model.outcome import EndReport
    from orchestrator_core.model.records import Agent
    from orchestrator_core.model.spec import AgentSpec


def run(arguments: argparse.Namespace) -> Result:
    """Run the command that was given."""
    name = arguments.command
    if name in _ELSEWHERE:
        command = importlib.import_module(f"orchestrator_core.cli.{_ELSEWHERE[name]}").run
    else:
        command = _COMMANDS[name]
    result: Result = command(arguments)
    return result


def _demo(arguments: argparse.Namespace) -> Result:
    from orchestrator_core.cli.demo import demo  # noqa: PLC0415 - its own world

    _end_at_sigterm()
    return demo(
        root=arguments.root,
        directory=arguments.directory,
        keep=arguments.keep,
        quiet=arguments.json,
    )


def _deploy(arguments: argparse.Namespace) -> Result:
    spec = _spec(arguments)
    spec.directory(), spec.program()  # refused before there is a task for nothing
    _end_at_sigterm()
    orch = Orchestrator(arguments.root)
    if arguments.new_task is not None:
        task_id = orch.create_task(arguments.new_task, key=arguments.key).id
    else:
        task_id = arguments.task
    agent = orch.deploy(task_id, spec, grace_s=arguments.grace)
    return Result(agent.to_dict(), agent.id)


def _spec(arguments: argparse.Namespace) -> AgentSpec:
    from orchestrator_core.model.spec import AgentSpec  # noqa: PLC0415 - as below

    about: dict[str, Any] = {
        "type": arguments.type,
        "prompt": _prompt(arguments),
        "cwd": arguments.cwd,
        "env": dict(_variable(text) for text in arguments.env),
        "parent": arguments.parent,
        "deadline_s": arguments.deadline,
        "silent_after_s": arguments.silent_after,
        "key": arguments.key,
    }
    if arguments.preset is not None:
        if arguments.model is not None:
            if arguments.preset == "shell":
                raise InvalidInput("a shell has no model", hint="leave --model away")
            about["model"] = arguments.model
        spec: AgentSpec = getattr(AgentSpec, arguments.preset)(arguments=arguments.cmd, **about)
        return spec
    if arguments.model is not None:
        raise InvalidInput("--model is for presets", hint="give --preset, or put it after CMD")
    if not arguments.cmd:
        raise InvalidInput("it was not said what the agent runs", hint="-- CMD…, or --preset P")
    return AgentSpec(command=arguments.cmd, **about)


def _end_at_sigterm() -> None:
    """Let SIGTERM raise, as Ctrl-C does, so that what was begun is undone."""

    def leave(*_: object) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, leave)


def _prompt(arguments: argparse.Namespace) -> str:
    if arguments.prompt is not None:
        return str(arguments.prompt)
    try:
        if arguments.prompt_file == "-":
            return sys.stdin.buffer.read().decode()
        return Path(arguments.prompt_file).read_bytes().decode()
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a NUL in the name
        raise InvalidInput(
            f"the prompt cannot be read from {arguments.prompt_file}: {error}",
            hint="give a file of UTF-8 text, or - for standard input",
        ) from error


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise InvalidInput(
            f"--env {name} has no value", hint="NAME=VALUE; what is set here is passed on anyway"
        )
    return name, value


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
            printable(agent.end_reason or agent.message)[:60],
        )
        for agent in agents
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def _show(arguments: argparse.Namespace) -> Result:
    from orchestrator_core.cli.show import tell  # noqa: PLC0415 - for one command

    orch = Orchestrator(arguments.root, recover=False)
    return tell(orch, arguments.agent, tail=arguments.tail)


def _kill(arguments: argparse.Namespace) -> Result:
    from orchestrator_core.cli import code_of  # noqa: PLC0415 - they import each other

    orch = Orchestrator(arguments.root, recover=False, timeout_s=arguments.timeout)
    data: list[dict[str, Any]] = []
    lines: list[str] = []
    errors: list[OrchestratorError] = []
    codes = [0]
    for agent_id in arguments.agents:
        try:
            end = orch.terminate(
                agent_id,
                reason=arguments.reason,
                keep_logs=not arguments.delete_logs,
                cascade=not arguments.no_cascade,
            )
        except OrchestratorError as error:  # One that cannot be ended strands no other.
            data.append({**error.to_dict(), "agent_id": agent_id, "success": False})
            errors.append(error)
            codes.append(code_of(error))
        else:
            data.append(end.to_dict())
            lines.append(_told(end))
            codes.append(_code(end))
    return Result(data, "\n".join(lines), max(codes), tuple(errors))


def _code(end: EndReport) -> int:
    return 0 if end.success or end.handed_over else 3


def _told(end: EndReport) -> str:
    if end.handed_over:
        return f"{end.agent_id}: ends as {end.status}; its supervisor sees to it"
    if not end.success:
        return f"{end.agent_id}: STUCK, not given back: {printable('; '.join(end.errors))}"
    proof = "proven" if end.verified_no_zombies else "unproven"
    return (
        f"{end.agent_id}: {end.status or 'rolled back'} ({printable(end.reason)}), "
        f"no process left ({proof} by {end.method}), {end.bytes_freed} bytes freed, "
        f"{len(end.archived_files)} files archived"
        + "".join(f"\n  kept: {printable(kept)}" for kept in end.kept)
    ) + "".join(f"\n  {line}" for child in end.children for line in _told(child).splitlines())


def _progress(arguments: argparse.Namespace) -> Result:
    # No recovery: this runs inside agents, often, and others recover.
    orch = Orchestrator(arguments.root, recover=False, timeout_s=arguments.timeout)
    receipt = orch.report_progress(
        arguments.agent,
        arguments.status,
        message=arguments.message,
        progress=arguments.progress,
    )
    text = _told(receipt.end) if receipt.end else f"{receipt.agent_id}: {arguments.status}"
    return Result(receipt.to_dict(), text, _code(receipt.end) if receipt.end else 0)


def _recover(arguments: argparse.Namespace) -> Result:
    from orchestrator_core.cli.show import tell_recovery  # noqa: PLC0415 - for one command

    orch = Orchestrator(arguments.root, recover=False)
    if arguments.abandon is not None:
        if not (arguments.agent and arguments.reason):
            raise InvalidInput(
                "--abandon needs to know of which agent, and why",
                hint="recover AGENT --abandon STEP --reason TEXT",
            )
        orch.abandon(arguments.agent, arguments.abandon, reason=arguments.reason)
    force = arguments.force or arguments.abandon is not None
    return tell_recovery(orch.recover(arguments.agent, force=force))


def _unwind(arguments: argparse.Namespace) -> Result:
    # We were a supervisor a moment ago, and held SIGTERM back across the exec.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    # Who ends the agent instead of us sends it; once it is ours to end, nobody does.
    end = Orchestrator(arguments.root, recover=False).finish(
        arguments.agent, taken=lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN)
    )
    return Result(end.to_dict(), _told(end), _code(end))


_COMMANDS: dict[str, Callable[[argparse.Namespace], Result]] = {
    "demo": _demo,
    "deploy": _deploy,
    "ps": _ps,
    "show": _show,
    "kill": _kill,
    "progress": _progress,
    "recover": _recover,
    "unwind": _unwind,
}

#: Commands with a module of their own, which has a ``run``.
_ELSEWHERE: dict[str, str] = {
    "doctor": "doctor",
    "export": "export",
    "gc": "gc",
    "health": "health",
    "mcp": "mcp",
    "repair": "repair",
    "service": "service",
    "stats": "stats",
    "sweep": "sweep",
}
