"""
The tools for deploying agents and looking after them; each is one call of the library.

A model reads their docstrings and the descriptions of their parameters. Their annotations
are evaluated when they are described, so the names in those are imported here.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import os
import re
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread

from orchestrator_core.aio import AsyncOrchestrator
from orchestrator_core.exceptions import DeploymentError, InvalidInput, OrchestratorError
from orchestrator_core.mcp import output_slice, schemas, views
from orchestrator_core.mcp import parameters as params
from orchestrator_core.mcp.adapters import add_tools
from orchestrator_core.mcp.agent_kind import AgentKind
from orchestrator_core.mcp.agent_tools import AgentTools
from orchestrator_core.mcp.definitions import ToolDefinition
from orchestrator_core.mcp.errors import DeployRefused, raise_if_not_clean
from orchestrator_core.mcp.progress import progress_feed
from orchestrator_core.mcp.synonyms import status_named
from orchestrator_core.mcp.task_context import context_field, with_context
from orchestrator_core.mcp.timeline import timeline
from orchestrator_core.model.environment import ORCHESTRATOR
from orchestrator_core.system.log import emit

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from orchestrator_core.orchestrator import Orchestrator
    from orchestrator_core.reconcile.sweep.findings import Finding, ReapResult

_RECOVERY_INTERVAL_S = 2.0  #: Between two looks for agents that have died.
#: Tools whose answer may be long: without an output schema, it is sent once, as text.
_TEXT_ONLY = frozenset({"get_agent_output"})


def register_tools(
    server: Any,  # noqa: ANN401 - of any SDK: see adapters
    orchestrator: Orchestrator,
    *,
    command: Sequence[str] | None = None,
    preset: str | None = None,
    kind: AgentKind | None = None,
    prefix: str = "",
    only: Collection[str] | None = None,
) -> None:
    """
    Add the tools to a server.

    The server is an ``MCPServer``, a ``FastMCP`` or a low-level ``Server`` of the package mcp,
    or a ``FastMCP`` of the package fastmcp. The orchestrator may be in use elsewhere as well.

    - *command* is the argv of every agent that is deployed through the tools, *preset* is the
      name of a preset instead, and *kind* has further options. Without all three, every tool
      but deploying works.
    - *prefix* precedes each tool's name. A second orchestrator on one server needs one.
    - *only* names the tools to add, without the prefix.

    Raises:
        InvalidInput: More than one kind of agent is given, or an invalid one; *only* names an
            unknown tool; the server's class is not known; or the server has a tool of one of
            the names. Nothing was added.
    """
    if kind is not None and (command or preset):
        raise InvalidInput("kind is given together with command or preset", hint="give one")
    agents = kind or AgentKind(command=command, preset=preset)
    definitions = describe_tools(orchestrator, agents, prefix=prefix)
    add_tools(server, _only(definitions, only, prefix))


def describe_tools(
    orchestrator: Orchestrator, kind: AgentKind, *, prefix: str = ""
) -> list[ToolDefinition]:
    """Return all tools of an orchestrator, for an adapter."""
    orch = AsyncOrchestrator.wrapping(orchestrator)
    methods = [*Tools(orch, kind).all(), *AgentTools(orch).all()]
    names = re.compile(rf"\b({'|'.join(method.__name__ for method, _ in methods)})\b")
    return [
        ToolDefinition(
            method,
            hints,
            prefix=prefix,
            has_values=method.__name__ not in _TEXT_ONLY,
            reword=functools.partial(names.sub, rf"{prefix}\1"),
        )
        for method, hints in methods
    ]


def _only(
    definitions: list[ToolDefinition], only: Collection[str] | None, prefix: str
) -> list[ToolDefinition]:
    if only is None:
        return definitions
    wanted = {prefix + name for name in only}
    unknown = wanted - {each.name for each in definitions}
    if unknown or isinstance(only, str):
        known = ", ".join(each.name.removeprefix(prefix) for each in definitions)
        raise InvalidInput(f"only = {only!r:.200} names no tool", hint=f"choose from: {known}")
    return [each for each in definitions if each.name in wanted]


class Tools:
    """The tools of a model or a person that directs agents."""

    def __init__(self, orchestrator: AsyncOrchestrator, kind: AgentKind) -> None:
        self._orch = orchestrator
        self._kind = kind
        self._recovered_at = -math.inf

    def all(self) -> list[tuple[Any, params.Hints]]:
        """Return each tool with its annotations."""
        return [
            (self.create_real_task, params.ADDS),
            (self.deploy_headless_agent, params.RUNS),
            (self.spawn_child_agent, params.RUNS),
            (self.get_real_task_status, params.READS),
            (self.get_agent_output, params.READS),
            (self.get_agent_result, params.READS),
            (self.kill_real_agent, params.ENDS),
            (self.list_agents, params.READS),
            (self.sweep_agents, params.ENDS),
            (self.get_agent_timeline, params.READS),
        ]

    # --- beginning -------------------------------------------------------------------------------

    async def create_real_task(  # noqa: PLR0913, PLR0917 - the parameters that agents know
        self,
        description: params.Description,
        priority: params.Priority = "P2",
        client_cwd: params.Cwd = None,
        background_context: params.Background = None,
        expected_deliverables: params.Deliverables = None,
        success_criteria: params.Criteria = None,
        constraints: params.Constraints = None,
        relevant_files: params.Files = None,
        related_documentation: params.Documents = None,
        project_context: params.Project = None,
        phases: params.Phases = None,
        conversation_history: params.Conversation = None,
    ) -> schemas.CreateTaskResult:
        """
        Make a task. Agents are deployed for a task, so this comes first.

        Its id is what all other tools ask for. The context given here is put before
        the prompt of each of its agents.
        """
        _check_directory(client_cwd)
        context = context_field(
            background_context=background_context,
            expected_deliverables=expected_deliverables,
            success_criteria=success_criteria,
            constraints=constraints,
            relevant_files=relevant_files,
            related_documentation=related_documentation,
            project_context=project_context,
            phases=phases,
            conversation_history=conversation_history,
        )
        task = await self._orch.create_task(
            description, priority=priority, client_cwd=client_cwd, extra=context
        )
        return schemas.select(
            task,
            schemas.CreateTaskResult,
            success=True,
            task_id=task.id,
            has_enhanced_context=bool(context),
        )

    async def deploy_headless_agent(
        self,
        task_id: params.TaskId,
        agent_type: params.AgentType,
        prompt: params.Prompt,
        parent: params.Parent = ORCHESTRATOR,
    ) -> schemas.DeployResult:
        """
        Deploy an agent for a task, headless, in a new tmux session.

        When this returns, the agent runs. If it fails, nothing of it is left, or the error
        names what is. A cancelled call is undone.
        """
        return await self._deploy(task_id, agent_type, prompt, parent)

    async def spawn_child_agent(
        self,
        task_id: params.TaskId,
        parent_agent_id: params.ParentId,
        child_agent_type: params.AgentType,
        child_prompt: params.Prompt,
    ) -> schemas.DeployResult:
        """Deploy an agent as the child of another one of its task: it ends with its parent."""
        return await self._deploy(task_id, child_agent_type, child_prompt, parent_agent_id)

    async def _deploy(
        self, task_id: str, agent_type: str, prompt: str, parent: str
    ) -> schemas.DeployResult:
        try:
            task = await self._orch.task(task_id)
            spec = self._kind.spec(
                kind=agent_type,
                prompt=with_context(prompt, task.record),
                parent=parent,
                cwd=task.record.get("client_cwd"),
            )
            async with progress_feed(f"deploying an agent for {task_id}"):
                with _log_error_if_cancelled():
                    agent = await self._orch.deploy(task_id, spec, grace_s=self._kind.grace_s)
        except DeploymentError:
            raise
        except OrchestratorError as error:
            raise DeployRefused(error) from error
        return schemas.select(
            agent,
            schemas.DeployResult,
            success=True,
            agent_id=agent.id,
            task_id=task_id,
            status="deployed",
            workspace=str(self._orch.root / task_id),
            deployment_method="tmux session",
            tracked_files=dict(agent.record.get("tracked_files") or {}),
        )

    # --- reading ---------------------------------------------------------------------------------

    async def get_real_task_status(self, task_id: params.TaskId) -> schemas.TaskStatusResult:
        """
        Return a task: its agents, whose children they are, and their last reports.

        Agents that have ended have the result in their output. Agents that have died without
        a report are noticed, and are of the status "error".
        """
        await self._recover_dead()
        return await views.task_status(self._orch, task_id)

    async def get_agent_output(  # noqa: PLR0913, PLR0917 - the parameters that agents know
        self,
        task_id: params.TaskId,
        agent_id: params.AgentId,
        tail: params.Tail = None,
        filter: params.Pattern = None,  # noqa: A002 - the name that agents know
        format: params.Format = "text",  # noqa: A002 - as above
        include_metadata: params.Metadata = False,  # noqa: FBT002 - as above
        max_bytes: params.MaxBytes = None,
        response_format: params.ResponseFormat = "full",
        offset: params.Offset = None,
    ) -> schemas.AgentOutputResult:
        """
        Return an agent's output, from its log or from the archived log.

        The answer is bounded: with truncated, it lacks earlier lines, or later ones of a page.
        """
        query = output_slice.OutputQuery(
            offset=offset,
            filter=filter,
            format=format,
            tail=tail or None,
            response=response_format,
            max_bytes=max_bytes,
        )
        agent = await views.agent_of_task(self._orch, task_id, agent_id)
        read = functools.partial(
            views.agent_output, self._orch.sync, agent, query, with_metadata=include_metadata
        )
        return await anyio.to_thread.run_sync(read)

    async def get_agent_result(
        self, task_id: params.TaskId, agent_id: params.AgentId
    ) -> schemas.AgentResultResult:
        """
        Return an agent's answer: its last message, its result or error, cost, tokens and denials.

        An agent that still works has no result yet, and may have a last message.
        """
        await self._recover_dead()
        agent = await views.agent_of_task(self._orch, task_id, agent_id)
        return await views.agent_result(self._orch, agent)

    async def _recover_dead(self) -> None:
        """End what has died without a witness, at most once in some seconds."""
        now = anyio.current_time()
        if now - self._recovered_at < _RECOVERY_INTERVAL_S:
            return
        self._recovered_at = now
        with contextlib.suppress(OrchestratorError):  # Unknown stays unknown; the listing goes on.
            await self._orch.recover()

    async def list_agents(
        self, task_id: params.OfTask = None, status: params.OfStatus = None
    ) -> schemas.ListAgentsResult:
        """List agents, oldest first: of one task or of all, active or ended."""
        await self._recover_dead()
        wanted = None if status is None else status_named(status)
        if status is not None and status.strip().lower() == "active":
            wanted = "active"
        agents = await self._orch.agents(task_id=task_id, status=wanted)
        infos = [schemas.select(agent, schemas.AgentInfo) for agent in agents]
        unknown = [f"{path}: {why}" for path, why in self._orch.unreadable.items()]
        return {"success": True, "count": len(infos), "agents": infos, "unknown": unknown}

    async def get_agent_timeline(
        self, task_id: params.TaskId, agent_id: params.AgentId
    ) -> schemas.TimelineResult:
        """Return an agent's events, oldest first: deployment, progress, findings, end."""
        return await timeline(self._orch, await views.agent_of_task(self._orch, task_id, agent_id))

    # --- ending ----------------------------------------------------------------------------------

    async def kill_real_agent(
        self,
        task_id: params.TaskId,
        agent_id: params.AgentId,
        reason: params.Reason = "Manual termination",
    ) -> schemas.KillResult:
        """
        End an agent with its children, and give back all they held; logs are archived.

        An agent that has ended before is not ended again: the status and reason of its end
        are returned.
        """
        agent = await views.agent_of_task(self._orch, task_id, agent_id)
        async with progress_feed(f"ending {agent_id}"):
            end = await self._orch.terminate(agent.id, reason=reason)
        cleanup = views.cleanup(end)
        raise_if_not_clean(end, cleanup)
        return schemas.select(
            end,
            schemas.KillResult,
            success=True,
            agent_id=agent.id,
            tmux_session=agent.tmux_session,
            session_killed=end.tmux_session_killed,
            cleanup=cleanup,
            children=[child.agent_id for child in end.children],
        )

    async def sweep_agents(
        self,
        reap: params.Reap = False,  # noqa: FBT002 - as above
    ) -> schemas.SweepResult:
        """Find what dead orchestrators and agents have left behind, and reap it on request."""
        async with progress_feed("sweeping"):
            report = await self._orch.sweep(reap=reap)
        reaped = {result.finding.key: result for result in report.reaped}
        return schemas.select(
            report,
            schemas.SweepResult,
            success=True,
            findings=[_sweep_finding(each, reaped.get(each.key)) for each in report.findings],
            left=[finding.subject for finding in report.left],
        )


def _sweep_finding(finding: Finding, reaped: ReapResult | None) -> schemas.SweepFinding:
    return schemas.select(
        finding,
        schemas.SweepFinding,
        kind=finding.kind.value,
        reaped=reaped is not None and reaped.success,
        said="" if reaped is None else reaped.message,
    )


def _check_directory(path: str | None) -> None:
    if path is not None and not (os.path.isabs(path) and os.path.isdir(path)):  # noqa: PTH112, PTH117 - a string is given
        raise InvalidInput(
            f"client_cwd is {path!r:.200}, not the absolute path of a directory on this machine",
            hint="leave it out; agents then run in the server's directory",
        )


@contextlib.contextmanager
def _log_error_if_cancelled() -> Iterator[None]:
    """Log an error in the block if the call is cancelled: such a call has no result."""
    try:
        yield
    except OrchestratorError as error:
        if anyio.current_effective_deadline() == -math.inf:
            _log_undo_failed(error)
        raise


def _log_undo_failed(error: OrchestratorError) -> None:
    """A call was cancelled, and what it had done could not be undone at once."""
    emit(logging.ERROR, "mcp.undo_failed", error=str(error), hint=error.hint)
