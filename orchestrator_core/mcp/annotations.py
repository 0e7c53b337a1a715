"""
Parameters that several tools share, and what a client may know of a tool before its call.

The SDK evaluates the annotations of a tool when it is registered, so these are imported there.
"""

from __future__ import annotations

from typing import Annotated, Literal

from mcp.types import ToolAnnotations
from pydantic import Field

TaskId = Annotated[str, Field(description="The task's id, as create_real_task returned it.")]
AgentId = Annotated[str, Field(description="The agent's id, as its deployment returned it.")]
OwnTask = Annotated[str, Field(description="Your task's id. May be left empty inside an agent.")]
OwnId = Annotated[str, Field(description="Your own id. May be left empty inside an agent.")]
AgentType = Annotated[
    str, Field(description="The kind of agent, in one word; its id begins with it. A-Z a-z 0-9 _ -")
]
Prompt = Annotated[str, Field(description="Everything that the agent must know and do.")]
Severity = Annotated[
    Literal["low", "medium", "high", "critical", "info"], Field(description="How bad it is.")
]

READS = ToolAnnotations(read_only_hint=True, idempotent_hint=True, open_world_hint=False)
ADDS = ToolAnnotations(read_only_hint=False, destructive_hint=False, open_world_hint=False)
RUNS = ToolAnnotations(read_only_hint=False, destructive_hint=False, open_world_hint=True)
ENDS = ToolAnnotations(
    read_only_hint=False, destructive_hint=True, idempotent_hint=True, open_world_hint=False
)
