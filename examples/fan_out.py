"""
A custom orchestrator: one agent for each part of a job, all of them awaited and ended.

::

    python examples/fan_out.py DIRECTORY [AGENT ARGUMENT…]

An agent reads each file of a directory. The program waits for all agents and prints their
findings. The agents are tiny programs unless you name another, for example ``claude -p``.
The prompt, on standard input, describes how to report.
"""

from __future__ import annotations

import sys
from pathlib import Path

from orchestrator_core import AgentSpec, LimitReached, Limits, Orchestrator

PROMPT = """\
Read the file {name}, and report each thing worth knowing about it with

    from orchestrator_core import Orchestrator
    Orchestrator(recover=False).report_finding(message="…")

which needs no id, because you are inside your session.
"""

# Stands in for a coding agent: it reports how long the file is, and finishes.
READER = """\
import sys
from pathlib import Path
from orchestrator_core import Orchestrator

name = sys.argv[1]
lines = Path(name).read_text(errors="replace").count("\\n")
Orchestrator(recover=False).report_finding(message=f"{name} has {lines} lines")
"""


def fan_out(root: Path, directory: Path, command: list[str]) -> dict[str, list[str]]:
    """Let an agent read each file, and return each agent's findings."""
    orch = Orchestrator(root, limits=Limits(max_concurrent=4))
    task = orch.create_task(f"Look at {directory.name}")
    found: dict[str, list[str]] = {}
    running: dict[str, str] = {}
    try:
        for file in sorted(path for path in directory.iterdir() if path.is_file()):
            spec = AgentSpec(
                type="reader",
                prompt=PROMPT.replace("{name}", file.name),
                command=[*command, file.name],
                cwd=directory,
                deadline_s=600,
            )
            while True:
                try:
                    running[orch.deploy(task.id, spec).id] = file.name
                    break
                except LimitReached:  # The library counts the agents.
                    gather(orch, running, found)
        while running:
            gather(orch, running, found)
    finally:
        # After Ctrl-C or a timeout, too, no agent of the task is left behind.
        for agent in orch.agents(task_id=task.id, status="active"):
            orch.terminate(agent.id, reason="the fan-out was interrupted")
    return found


def gather(orch: Orchestrator, running: dict[str, str], found: dict[str, list[str]]) -> None:
    """Wait for the oldest agent, and read its findings."""
    agent_id, name = next(iter(running.items()))
    end = orch.wait(agent_id, timeout_s=700)
    del running[agent_id]
    findings = [finding.message for finding in orch.read_findings(agent_id)]
    found[name] = findings or [f"nothing: {end.reason}"]


if __name__ == "__main__":
    directory = Path(sys.argv[1]).resolve()
    command = sys.argv[2:] or [sys.executable, "-c", READER]
    for name, messages in fan_out(Path(".agent-workspace"), directory, command).items():
        print(f"{name}: {'; '.join(messages)}")
