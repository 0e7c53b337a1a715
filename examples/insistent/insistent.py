"""
An orchestrator of your own in two functions, with tests beside it.

The program deploys one agent for each part of a project. The program may run again at
any time, also after a crash: no agent is deployed twice.
"""

from __future__ import annotations

from orchestrator_core import Agent, AgentSpec, EndReport, Orchestrator


def staff(orch: Orchestrator, project: str, parts: list[str]) -> list[Agent]:
    """Deploy an agent for each part of a project that has none, and return all agents."""
    task = orch.create_task(f"Look after {project}", key=project)
    return [orch.deploy(task.id, spec_for(project, part)) for part in parts]


def insist(orch: Orchestrator, task_id: str, spec: AgentSpec, *, tries: int) -> EndReport:
    """Deploy agents, for an hour each, until one completes or all tries have failed."""
    for _ in range(tries):
        agent = orch.deploy(task_id, spec)
        end = orch.wait(agent.id, timeout_s=3600)
        if end.status == "completed":
            break
    return end


def spec_for(project: str, part: str) -> AgentSpec:
    """Return the spec for one part. Its key prevents a second deployment."""
    return AgentSpec.claude(
        prompt=f"Look after the {part} of {project}.", key=f"{project}-{part}", deadline_s=3600
    )
