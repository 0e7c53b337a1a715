"""
A custom orchestrator: one agent for each part of a job, all of them gathered and ended.

::

    python examples/fan_out.py DIRECTORY [AGENT ARGUMENT…]

It has an agent look at every file of a directory, waits for all, and prints what
they have found. The agents are tiny programs unless you name one of your own,
``claude -p`` for instance; its prompt, on standard input, says how to report.
"""

from __future__ import annotations

import sys
from pathlib import Path

from orchestrator_core import AgentSpec, LimitReached, Limits, Orchestrator

PROMPT = """\
Read the file {name}, and report each thing worth knowing about it with

    from orchestrator_core import Orchestrator
    Orchestrator(recover=False).report_finding(message="…")

which needs no id: you are inside your own session.
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
    """Have an agent look at each file, and return what each has found."""
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
                except LimitReached:  # The limit is the library's; so is telling us of it.
                    gather(orch, running, found)
        while running:
            gather(orch, running, found)
    finally:
        # Ctrl-C, or one that outlived our patience: none of the task's is left behind.
        for agent in orch.agents(task_id=task.id, status="active"):
            orch.terminate(agent.id, reason="the fan-out was broken off")
    return found


def gather(orch: Orchestrator, running: dict[str, str], found: dict[str, list[str]]) -> None:
    """Wait for the one that has run longest, and read what it leaves."""
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
