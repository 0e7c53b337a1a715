"""The commands for agents, each a function of its name; and the modules of the others."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator_core.cli import BUSY, LEFT, OK, exit_code, naming
from orchestrator_core.cli.printing import (
    CommandResult,
    LiveResults,
    as_text,
    printable,
    terminal_width,
)
from orchestrator_core.exceptions import InvalidInput, NotFound, OrchestratorError, SagaError
from orchestrator_core.model.environment import ENV_AGENT, ENV_EXIT_RECORD
from orchestrator_core.orchestrator import Orchestrator, shared_timeout

if TYPE_CHECKING:
    import argparse

    from orchestrator_core.model.outcome import EndReport
    from orchestrator_core.model.records import Agent
    from orchestrator_core.model.spec import AgentSpec


def run(arguments: argparse.Namespace) -> CommandResult:
    """Run the command that *arguments* name."""
    name = arguments.command
    module = importlib.import_module(f"orchestrator_core.cli.{_MODULES.get(name, 'commands')}")
    result: CommandResult = getattr(module, name)(arguments)
    return result


def demo(arguments: argparse.Namespace) -> CommandResult:
    """Run the demonstration."""
    from orchestrator_core.cli.demo import scenario  # noqa: PLC0415 - for one command

    _raise_on_sigterm()
    return scenario.demo(
        root=arguments.root,
        directory=arguments.directory,
        keep=arguments.keep,
        quiet=arguments.json,
    )


# --- deploy --------------------------------------------------------------------------------------


def deploy(arguments: argparse.Namespace) -> CommandResult:
    """Deploy an agent, for a task or for a new one."""
    spec = _spec(arguments)
    spec.directory(), spec.program()  # Refused here, before a task is made for it.
    _raise_on_sigterm()
    orch = Orchestrator(arguments.root)
    if arguments.new_task is None:
        agent = orch.deploy(arguments.task, spec, grace_s=arguments.grace)
    else:
        agent = _deploy_for_new_task(orch, spec, arguments)
    return CommandResult(agent.to_dict(), agent.id)


def _deploy_for_new_task(
    orch: Orchestrator, spec: AgentSpec, arguments: argparse.Namespace
) -> Agent:
    """Create a task and deploy its agent: both, or none. A task with a key stays for a retry."""
    task_id = orch.create_task(arguments.new_task, key=arguments.key).id
    try:
        return orch.deploy(task_id, spec, grace_s=arguments.grace)
    except BaseException as error:
        if arguments.key is None and not getattr(error, "leaked", ()):
            with contextlib.suppress(OrchestratorError):  # The first error counts.
                orch.discard_task(task_id)
        raise


def _spec(arguments: argparse.Namespace) -> AgentSpec:
    from orchestrator_core.model.spec import AgentSpec  # noqa: PLC0415 - for one command

    options: dict[str, Any] = {
        "type": arguments.type,
        "prompt": _prompt(arguments),
        "cwd": arguments.cwd,
        "env": _variables(arguments),
        "parent": arguments.parent,
        "deadline_s": arguments.deadline,
        "linger_s": arguments.linger,
        "silent_after_s": arguments.silent_after,
        "key": arguments.key,
    }
    if arguments.model is not None:
        if arguments.preset is None:
            raise InvalidInput("--model is given without --preset", hint="or put it after CMD")
        if arguments.preset == "shell":
            raise InvalidInput("the preset shell has no model", hint="leave --model out")
        options["model"] = arguments.model
    if arguments.preset is not None:
        spec: AgentSpec = getattr(AgentSpec, arguments.preset)(arguments=arguments.cmd, **options)
        return spec
    if not arguments.cmd:
        raise InvalidInput("there is no command for the agent", hint="-- CMD…, or --preset P")
    return AgentSpec(command=arguments.cmd, **options)


def _prompt(arguments: argparse.Namespace) -> str:
    if arguments.prompt is not None:
        return str(arguments.prompt)
    return _read(arguments.prompt_file, "the prompt")


def _read(file: str, what: str) -> str:
    """Return the text of a file, or of standard input for ``-``."""
    try:
        if file == "-":
            if sys.stdin is None:
                raise ValueError("it is closed")  # noqa: TRY301 - caught below
            return sys.stdin.buffer.read().decode()
        return Path(file).read_bytes().decode()
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a NUL in the name.
        raise InvalidInput(
            f"{what} cannot be read from {file}: {error}",
            hint="give a file of UTF-8 text, or - for standard input",
        ) from error


def _variables(arguments: argparse.Namespace) -> dict[str, str]:
    """Return the variables of ``--env-file`` and ``--env``; the latter win."""
    variables: dict[str, str] = {}
    for file in arguments.env_file:
        for number, line in enumerate(_read(file, "the variables").split("\n"), 1):
            if not line.strip() or line.startswith("#"):
                continue
            name, equals, value = line.partition("=")
            if not (name and equals):  # The line may be a secret: it is not shown.
                raise InvalidInput(
                    f"line {number} of {file} sets no variable",
                    hint="give NAME=VALUE on each line; empty lines and # comments are left out",
                )
            variables[name] = value
    return variables | dict(map(_variable, arguments.env))


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise InvalidInput(
            f"--env {name} has no value",
            hint="give NAME=VALUE; variables of this environment are passed on anyway",
        )
    return name, value


def _raise_on_sigterm() -> None:
    """Let SIGTERM raise SystemExit, so that an unfinished deployment is undone."""

    def leave(*_: object) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, leave)


# --- ps and show ---------------------------------------------------------------------------------


def ps(arguments: argparse.Namespace) -> CommandResult:
    """List agents."""
    orch = Orchestrator(arguments.root, create=False)
    status = None if arguments.all else "active"
    with naming.explained(orch, arguments.task):
        agents = orch.agents(task_id=arguments.task, status=status)
    unread = [f"{path}: {why}" for path, why in orch.unreadable.items()]
    table = _table(agents) if agents else "no agents are known" if unread else "no agents"
    data = [agent.to_dict() for agent in agents]
    failed = {} if orch.recovery is None else orch.recovery.failed
    left = [f"{saga_id} was left as it is: {why}" for saga_id, why in failed.items()]
    return CommandResult(data, table, BUSY if unread else OK, notes=(*unread, *left))


def _table(agents: list[Agent]) -> str:
    now = time.time()
    rows = [("AGENT", "STATUS", "%", "AGE", "TASK", "MESSAGE")]
    rows += [
        (
            agent.id,
            agent.status,
            str(agent.progress),
            _format_age(agent.started_at, now),
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
    return as_text(line[: terminal_width()] for line in lines)


def _format_age(started_at: str, now: float) -> str:
    """Return the time since *started_at* in its largest unit; ``show`` has the exact time."""
    try:
        started = datetime.fromisoformat(started_at)
    except (TypeError, ValueError):
        return "?"  # Another program wrote the record.
    seconds = now - started.astimezone(UTC).timestamp()
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f}{unit}"
    return f"{max(0.0, seconds):.0f}s"


# --- kill and progress ---------------------------------------------------------------------------


def kill(arguments: argparse.Namespace) -> CommandResult:
    """End agents; if one cannot be ended, the others are ended all the same."""
    with shared_timeout():
        return _kill(arguments)


def _kill(arguments: argparse.Namespace) -> CommandResult:
    orch = Orchestrator(arguments.root, create=False, recover=False, timeout_s=arguments.timeout)
    data: list[dict[str, Any]] = []
    shown = LiveResults(as_json=arguments.json)
    codes = [OK]
    try:
        for agent_id in arguments.agents:
            try:
                line, end = _kill_one(orch, agent_id, arguments)
            except OrchestratorError as error:  # The other agents are ended all the same.
                data.append({**error.to_dict(), "agent_id": agent_id, "success": False})
                shown.add_error(error)
                codes.append(exit_code(error))
            else:
                data.append(end.to_dict())
                shown.add(line)
                codes.append(_code(end))
    except KeyboardInterrupt:
        left = arguments.agents[len(data) :]
        shown.interrupt(data, f"interrupted; not ended: {' '.join(left)}")
        raise
    return CommandResult(data, shown.rest, max(codes))


def _kill_one(
    orch: Orchestrator, agent_id: str, arguments: argparse.Namespace
) -> tuple[str, EndReport]:
    """End one agent; return the line about it, and the report."""
    with naming.explained(orch, agent_id):
        had_ended = _has_ended(orch, agent_id)
        end = orch.terminate(
            agent_id,
            reason=arguments.reason,
            keep_logs=not arguments.delete_logs,
            cascade=not arguments.no_cascade,
        )
    return f"{'had ended before: ' if had_ended else ''}{_format_end(end)}", end


def _has_ended(orch: Orchestrator, agent_id: str) -> bool:
    try:
        return orch.history(agent_id).state.value == "closed"
    except (NotFound, SagaError):
        return False  # A legacy agent, or damage: the end decides.


def _code(end: EndReport) -> int:
    return OK if end.success or end.handed_over else LEFT


def _format_end(end: EndReport) -> str:
    if end.handed_over:
        obstacle = f" ({printable('; '.join(end.errors))})" if end.errors else ""
        return f"{end.agent_id}: ends as {end.status}; its supervisor completes it{obstacle}"
    if not end.success:
        return f"{end.agent_id}: STUCK, not undone: {printable('; '.join(end.errors))}"
    # Without a proof, one may be left that the scan does not find.
    proof = "no process left (proven" if end.verified_no_zombies else "no process found (unproven"
    return (
        f"{end.agent_id}: {end.status or 'rolled back'} ({printable(end.reason)}), "
        f"{proof} by {end.method}), {end.bytes_freed} bytes freed, "
        f"{len(end.archived_files)} files archived"
        + "".join(f"\n  kept: {printable(kept)}" for kept in end.kept)
    ) + "".join(f"\n  {line}" for child in end.children for line in _format_end(child).splitlines())


def progress(arguments: argparse.Namespace) -> CommandResult:
    """Report an agent's progress or its end."""
    if arguments.agent is None and ENV_AGENT not in os.environ:
        from orchestrator_core.deployment.own_agent import adopt_own_agent  # noqa: PLC0415 - rarely needed

        adopt_own_agent(arguments.root)
    # Agents run this often, so it leaves the recovery to other commands.
    orch = Orchestrator(arguments.root, create=False, recover=False, timeout_s=arguments.timeout)
    receipt = orch.report_progress(
        arguments.agent,
        arguments.status,
        message=arguments.message,
        progress=arguments.progress,
    )
    text = _format_end(receipt.end) if receipt.end else f"{receipt.agent_id}: {arguments.status}"
    return CommandResult(receipt.to_dict(), text, _code(receipt.end) if receipt.end else OK)


# --- recover and unwind --------------------------------------------------------------------------


def recover(arguments: argparse.Namespace) -> CommandResult:
    """Finish the sagas of dead orchestrators."""
    from orchestrator_core.cli.show import format_recovery  # noqa: PLC0415 - for one command

    orch = Orchestrator(arguments.root, create=False, recover=False)
    if arguments.abandon is not None:
        if not (arguments.agent and arguments.reason):
            raise InvalidInput(
                "--abandon is given without an agent or without a reason",
                hint="recover AGENT --abandon STEP --reason TEXT",
            )
        orch.abandon(arguments.agent, arguments.abandon, reason=arguments.reason)
    force = arguments.force or arguments.abandon is not None
    return format_recovery(orch.recover(arguments.agent, force=force))


def unwind(arguments: argparse.Namespace) -> CommandResult:
    """Finish the end of one agent; a supervisor runs this by exec."""
    # This process was a supervisor, which blocked SIGTERM across the exec.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    # A process that ends the agent first sends SIGTERM. Once this one has the lock, none does.
    end = Orchestrator(arguments.root, create=False, recover=False).finish(
        arguments.agent,
        on_acquired=lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN),
        witnessed=os.environ.pop(ENV_EXIT_RECORD, None),
    )
    return CommandResult(end.to_dict(), _format_end(end), _code(end))


#: The modules of the other commands, imported when they run; each has a function of that name.
_MODULES: dict[str, str] = {
    "approve": "root_commands",
    "doctor": "root_commands",
    "export": "root_commands",
    "gc": "root_commands",
    "health": "sweeper_commands",
    "mcp": "mcp",
    "repair": "root_commands",
    "service": "sweeper_commands",
    "show": "show",
    "stats": "root_commands",
    "sweep": "sweeper_commands",
}
