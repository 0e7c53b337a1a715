"""
An orchestrator of your own, in two functions: what the tests beside it test.

It staffs a project with one agent for each part, and can be run again at any time,
after a crash as well: nobody is deployed twice.
"""

from __future__ import annotations

from orchestrator_core import Agent, AgentSpec, EndReport, Orchestrator


def staff(orch: Orchestrator, project: str, parts: list[str]) -> list[Agent]:
    """See to it that each part of a project has an agent, and return them."""
    task = orch.create_task(f"Look after {project}", key=project)
    return [orch.deploy(task.id, spec_for(project, part)) for part in parts]


def insist(orch: Orchestrator, task_id: str, spec: AgentSpec, *, tries: int) -> EndReport:
    """Deploy an agent until one completes, or all tries have failed; give each an hour."""
    for _ in range(tries):
        agent = orch.deploy(task_id, spec)
        end = orch.wait(agent.id, timeout_s=3600)
        if end.status == "completed":
            break
    return end


def spec_for(project: str, part: str) -> AgentSpec:
    """Return the agent for one part. Its key is what keeps it from being deployed twice."""
    return AgentSpec.claude(
        prompt=f"Look after the {part} of {project}.", key=f"{project}-{part}", deadline_s=3600
    )
