"""
The tools: each one call of the library, under the name and in the shape that agents know.

Their docstrings and the descriptions of their parameters are what a model reads. The
SDK looks at their annotations when they are registered, so what those name is imported.
"""

from __future__ import annotations

import inspect
import os
from typing import TYPE_CHECKING, Annotated, Any

from mcp.server.mcpserver import Context  # noqa: TC002 - the SDK evaluates the annotations
from pydantic import Field

from orchestrator_core.exceptions import DeploymentError, InvalidInput, OrchestratorError
from orchestrator_core.mcp import output_slice, schemas, task_context, views
from orchestrator_core.mcp.agent_kind import AgentKind
from orchestrator_core.mcp.agent_tools import OwnTools
from orchestrator_core.mcp.annotations import (
    ADDS,
    ENDS,
    READS,
    RUNS,
    AgentId,
    AgentType,
    Prompt,
    TaskId,
)
from orchestrator_core.mcp.errors import DeployRefused, cleanup, raise_if_not_clean
from orchestrator_core.mcp.timeline import timeline
from orchestrator_core.mcp.worker import errors_as_results, run
from orchestrator_core.model.environment import ORCHESTRATOR

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mcp.server.mcpserver import MCPServer
    from mcp.types import ToolAnnotations

    from orchestrator_core.model.records import Agent
    from orchestrator_core.orchestrator import Orchestrator


def register_tools(
    server: MCPServer[Any],
    orchestrator: Orchestrator,
    *,
    command: Sequence[str] | None = None,
    preset: str | None = None,
    kind: AgentKind | None = None,
) -> None:
    """
    Add the tools to a server.

    *command* is the argv of every agent that is deployed through them, *preset* the name
    of one instead, *kind* all that can be said about them. Without any of the three,
    everything but deploying works. The orchestrator may be in use elsewhere as well.

    Raises:
        InvalidInput: More than one of them is given, or one that makes no sense.
    """
    if kind is not None and (command or preset):
        raise InvalidInput("a kind of agent, and a command or preset as well", hint="give one")
    tools = Tools(orchestrator, kind or AgentKind(command=command, preset=preset))
    for tool, hints in (*tools.all(), *OwnTools(orchestrator).all()):
        server.add_tool(tool, description=inspect.getdoc(tool), annotations=hints)


class Tools:
    """The tools of whoever directs agents."""

    def __init__(self, orchestrator: Orchestrator, kind: AgentKind) -> None:
        self._orch = orchestrator
        self._kind = kind

    def all(self) -> list[tuple[Any, ToolAnnotations]]:
        """Return each of them, with what a client may know of it before it is called."""
        return [
            (self.create_real_task, ADDS),
            (self.deploy_headless_agent, RUNS),
            (self.spawn_child_agent, RUNS),
            (self.get_real_task_status, READS),
            (self.get_agent_output, READS),
            (self.kill_real_agent, ENDS),
            (self.list_agents, READS),
            (self.sweep_agents, ENDS),
            (self.get_agent_timeline, READS),
        ]

    # --- beginning -------------------------------------------------------------------------------

    @errors_as_results
    async def create_real_task(
        self,
        description: Annotated[str, Field(description="What is to be done.")],
        priority: Annotated[str, Field(description="P0, the most urgent, to P4.")] = "P2",
        client_cwd: Annotated[
            str | None, Field(description="The directory its agents run in; absolute.")
        ] = None,
        background_context: Annotated[
            str | None, Field(description="What its agents have to know; before every prompt.")
        ] = None,
        expected_deliverables: Annotated[
            list[str] | None, Field(description="What they are to deliver.")
        ] = None,
        success_criteria: Annotated[
            list[str] | None, Field(description="What makes it a success.")
        ] = None,
        constraints: Annotated[
            list[str] | None, Field(description="What they must or must not do.")
        ] = None,
        relevant_files: Annotated[
            list[str] | None, Field(description="The files it is about.")
        ] = None,
    ) -> schemas.CreateTaskResult:
        """
        Make a task. Agents are deployed for a task, so this comes first.

        Its id is what all other tools ask for. The context given here is put before
        the prompt of each of its agents.
        """
        about = {
            "background_context": background_context,
            "expected_deliverables": expected_deliverables,
            "success_criteria": success_criteria,
            "constraints": constraints,
            "relevant_files": relevant_files,
        }

        def create() -> schemas.CreateTaskResult:
            _check_directory(client_cwd)
            task = self._orch.create_task(description, priority=priority, client_cwd=client_cwd)
            task_context.save_context(self._orch.root, task.id, about)
            return {
                "success": True,
                "task_id": task.id,
                "description": task.description,
                "priority": task.priority,
                "workspace": task.workspace,
                "status": task.status,
            }

        return await run(create)

    @errors_as_results
    async def deploy_headless_agent(
        self,
        task_id: TaskId,
        agent_type: AgentType,
        prompt: Prompt,
        ctx: Context,
        parent: Annotated[
            str, Field(description='The agent that it ends with; "orchestrator" for nobody.')
        ] = ORCHESTRATOR,
    ) -> schemas.DeployResult:
        """
        Deploy an agent for a task, headless, in a tmux session of its own.

        When this returns, it runs. If it fails, nothing of it is left, or the error
        names what is. Cancelled, it is undone.
        """
        return await self._deploy(task_id, agent_type, prompt, parent, ctx)

    @errors_as_results
    async def spawn_child_agent(
        self,
        task_id: TaskId,
        parent_agent_id: Annotated[str, Field(description="The agent that it ends with.")],
        child_agent_type: AgentType,
        child_prompt: Prompt,
        ctx: Context,
    ) -> schemas.DeployResult:
        """Deploy an agent as the child of another one of its task: it ends when its parent does."""
        return await self._deploy(task_id, child_agent_type, child_prompt, parent_agent_id, ctx)

    async def _deploy(
        self, task_id: str, kind: str, prompt: str, parent: str, ctx: Context
    ) -> schemas.DeployResult:
        def deploy() -> Agent:
            try:
                document = views.document_of(self._orch, task_id)
                spec = self._kind.spec(
                    kind=kind,
                    prompt=task_context.with_context(prompt, document),
                    parent=parent,
                    cwd=document.get("client_cwd"),
                )
                return self._orch.deploy(task_id, spec, grace_s=self._kind.grace_s)
            except DeploymentError:
                raise
            except OrchestratorError as error:
                raise DeployRefused(error) from error

        def undo(agent: Agent) -> None:
            self._orch.terminate(agent.id, reason="cancelled")

        doing = f"deploying an agent for {task_id}"
        agent = await run(deploy, ctx=ctx, doing=doing, undo=undo)
        return {
            "success": True,
            "agent_id": agent.id,
            "tmux_session": agent.tmux_session,
            "type": agent.type,
            "parent": agent.parent,
            "task_id": task_id,
            "status": "deployed",
            "workspace": str(self._orch.root / task_id),
            "deployment_method": "tmux session",
        }

    # --- looking ---------------------------------------------------------------------------------

    @errors_as_results
    async def get_real_task_status(self, task_id: TaskId) -> schemas.TaskStatusResult:
        """Tell all about a task: its agents, whose children they are, and what they last said."""
        return await run(lambda: views.status(self._orch, task_id))

    @errors_as_results
    async def get_agent_output(
        self,
        task_id: TaskId,
        agent_id: AgentId,
        tail: Annotated[int | None, Field(description="Only so many of the last lines.")] = None,
        filter: Annotated[  # noqa: A002 - the name that agents know
            str | None, Field(description="Only lines in which this regular expression is found.")
        ] = None,
        format: Annotated[  # noqa: A002 - as above
            output_slice.Format,
            Field(
                description="text: as it was written; jsonl: only the lines that are JSON; "
                "parsed: those as a list of values."
            ),
        ] = "text",
        include_metadata: Annotated[  # noqa: FBT002 - as above
            bool, Field(description="Also count lines and bytes.")
        ] = False,
        max_bytes: Annotated[
            int | None, Field(description="Only whole lines from the end, of so many bytes.")
        ] = None,
        response_format: Annotated[
            output_slice.Response,
            Field(description="summary: at most the last 20 lines; compact: the last 5."),
        ] = "full",
    ) -> schemas.AgentOutputResult:
        """Return what an agent has written, whether it still lives or its log is archived."""
        wish = output_slice.OutputQuery(
            filter=filter, format=format, tail=tail, response=response_format, max_bytes=max_bytes
        )

        def read() -> schemas.AgentOutputResult:
            agent = views.agent_of(self._orch, task_id, agent_id)
            text = self._orch.read_output(agent.id)
            cut = output_slice.slice_output(text, wish)
            found: schemas.AgentOutputResult = {
                "success": True,
                "agent_id": agent.id,
                "session_status": "running" if agent.is_active else "terminated",
                "output": cut.output,
                "source": _source(agent, text),
                "tmux_session": agent.tmux_session,
            }
            if include_metadata:
                found["metadata"] = cut.metadata
            return found

        return await run(read)

    @errors_as_results
    async def list_agents(
        self,
        task_id: Annotated[str | None, Field(description="Only those of this task.")] = None,
        status: Annotated[
            str | None, Field(description='Only those of this status, or all "active" ones.')
        ] = None,
    ) -> schemas.ListAgentsResult:
        """List agents, oldest first: of one task or of all, living or ended."""

        def look() -> schemas.ListAgentsResult:
            agents = self._orch.agents(task_id=task_id, status=status)
            return {"success": True, "count": len(agents), "agents": [*map(views.info, agents)]}

        return await run(look)

    @errors_as_results
    async def get_agent_timeline(
        self, task_id: TaskId, agent_id: AgentId
    ) -> schemas.TimelineResult:
        """Tell an agent's life, moment by moment: deployment, progress, findings, end."""
        return await run(
            lambda: timeline(self._orch, views.agent_of(self._orch, task_id, agent_id))
        )

    # --- ending ----------------------------------------------------------------------------------

    @errors_as_results
    async def kill_real_agent(
        self,
        task_id: TaskId,
        agent_id: AgentId,
        ctx: Context,
        reason: Annotated[str, Field(description="Why; it is recorded.")] = "Manual termination",
    ) -> schemas.KillResult:
        """
        End an agent with its children, and give back all they held; logs are archived.

        One that has ended before is not ended again: the status and reason of its end
        are returned.
        """

        def kill() -> schemas.KillResult:
            agent = views.agent_of(self._orch, task_id, agent_id)
            end = self._orch.terminate(agent.id, reason=reason)
            raise_if_not_clean(end)
            return {
                "success": True,
                "agent_id": agent.id,
                "tmux_session": agent.tmux_session,
                "session_killed": end.tmux_session_killed,
                "reason": end.reason,
                "status": end.status,
                "cleanup": cleanup(end),
                "handed_over": end.handed_over,
                "children": [child.agent_id for child in end.children],
            }

        return await run(kill, ctx=ctx, doing=f"ending {agent_id}")

    @errors_as_results
    async def sweep_agents(
        self,
        ctx: Context,
        reap: Annotated[  # noqa: FBT002 - the tool's parameter, by name
            bool, Field(description="End what is ours by two proofs; else it is only told.")
        ] = False,
    ) -> schemas.SweepResult:
        """Find what dead orchestrators and agents have left behind, and end it if asked to."""

        def sweep() -> schemas.SweepResult:
            report = self._orch.sweep(reap=reap)
            reaped = {one.finding.key: one for one in report.reaped}
            return {
                "success": True,
                "clean": report.clean,
                "dry_run": report.dry_run,
                "findings": [
                    {
                        "kind": finding.kind.value,
                        "subject": finding.subject,
                        "what": finding.what,
                        "proofs": list(finding.proofs),
                        "action": finding.action,
                        "reaped": finding.key in reaped and reaped[finding.key].success,
                        "said": reaped[finding.key].message if finding.key in reaped else "",
                    }
                    for finding in report.findings
                ],
                "left": [finding.subject for finding in report.left],
                "unknown": list(report.unknown),
                "alive": list(report.alive),
            }

        return await run(sweep, ctx=ctx, doing="sweeping")


def _check_directory(path: str | None) -> None:
    if path is not None and not (os.path.isabs(path) and os.path.isdir(path)):  # noqa: PTH112, PTH117 - a string is given
        raise InvalidInput(
            f"client_cwd is {path!r:.200}, which is no absolute path of a directory here",
            hint="leave it out, and agents run where the server runs",
        )


def _source(agent: Agent, text: str) -> str:
    if agent.is_active:
        return "jsonl_log"
    return "archived_log" if text else "none"
