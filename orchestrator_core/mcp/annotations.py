"""
What several tools say of their parameters and of themselves, for models to read.

The annotations of the tools name these, and the SDK looks at them when it is given a tool.
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
    str, Field(description="What kind of agent, in a word: its id begins with it. A-Z a-z 0-9 _ -")
]
Prompt = Annotated[str, Field(description="All that the agent is to know and to do.")]
Severity = Annotated[
    Literal["low", "medium", "high", "critical", "info"], Field(description="How bad it is.")
]

READS = ToolAnnotations(read_only_hint=True, idempotent_hint=True, open_world_hint=False)
ADDS = ToolAnnotations(read_only_hint=False, destructive_hint=False, open_world_hint=False)
RUNS = ToolAnnotations(read_only_hint=False, destructive_hint=False, open_world_hint=True)
ENDS = ToolAnnotations(
    read_only_hint=False, destructive_hint=True, idempotent_hint=True, open_world_hint=False
)
