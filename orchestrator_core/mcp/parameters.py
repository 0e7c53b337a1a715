"""
The parameters of the tools as a model reads them, and the hints that a client gets.

A tool's annotations are evaluated when the tool is described, so the modules of the tools
import this one at run time.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from orchestrator_core.mcp import output_slice


def _described(text: str) -> Any:  # noqa: ANN401 - as pydantic's Field
    return Field(description=text)


# --- ids -----------------------------------------------------------------------------------------

TaskId = Annotated[str, _described("The task's id, as create_real_task returned it.")]
AgentId = Annotated[str, _described("The agent's id, as its deployment returned it.")]
OwnTask = Annotated[str, _described("Your task's id. May be left empty inside an agent.")]
OwnId = Annotated[str, _described("Your own id. May be left empty inside an agent.")]

# --- tasks ---------------------------------------------------------------------------------------

Description = Annotated[str, _described("What is to be done.")]
Priority = Annotated[str, _described("P0, the most urgent, to P4.")]
Cwd = Annotated[str | None, _described("The directory its agents run in; absolute.")]
Background = Annotated[
    str | None, _described("What its agents must know; put before every prompt.")
]
Deliverables = Annotated[list[str] | None, _described("What they must deliver.")]
Criteria = Annotated[list[str] | None, _described("What makes it a success.")]
Constraints = Annotated[list[str] | None, _described("What they must or must not do.")]
Files = Annotated[list[str] | None, _described("The files it is about.")]
Documents = Annotated[list[str] | None, _described("Documents to read.")]
Project = Annotated[
    dict[str, Any] | None, _described("Facts of the project: its framework, port, commands, …")
]
Phases = Annotated[
    list[dict[str, Any]] | None,
    _described("The phases of the work: each with a name, a description, deliverables, …"),
]
Conversation = Annotated[
    list[dict[str, Any]] | None,
    _described("The conversation so far, oldest first: each message with role and content."),
]

# --- agents --------------------------------------------------------------------------------------

AgentType = Annotated[
    str, _described("The kind of agent, in one word; its id begins with it. A-Z a-z 0-9 _ -")
]
Prompt = Annotated[str, _described("Everything that the agent must know and do.")]
ParentId = Annotated[str, _described("The agent that it ends with.")]
Parent = Annotated[str, _described('The agent that it ends with; "orchestrator" for none.')]
OfTask = Annotated[str | None, _described("Only agents of this task.")]
OfStatus = Annotated[str | None, _described('Only agents of this status; or "active".')]
Reason = Annotated[str, _described("Why; it is recorded.")]
Reap = Annotated[
    bool,
    _described("Clean up leftovers that have two pieces of evidence; by default, list them."),
]

# --- outputs -------------------------------------------------------------------------------------

Tail = Annotated[int | None, _described("The number of last lines; 0 for all that fit.")]
Offset = Annotated[
    int | None,
    _described("The page from this byte on; an answer's next_offset begins the next page."),
]
Pattern = Annotated[str | None, _described("Only lines in which this regular expression is found.")]
Format = Annotated[
    output_slice.Format,
    _described(
        "text: as it was written; jsonl: only the lines that are JSON; "
        "parsed: those as a list of values."
    ),
]
Metadata = Annotated[bool, _described("Also count lines and bytes.")]
MaxBytes = Annotated[
    int | None,
    _described(
        f"The most bytes of whole lines, from the end; by default "
        f"{output_slice.DEFAULT_MAX_BYTES}. An answer that is cut says truncated."
    ),
]
ResponseFormat = Annotated[
    output_slice.Response,
    _described("summary: the last 20 lines, long texts cut; compact: the last 5, shorter."),
]

# --- reports -------------------------------------------------------------------------------------

Status = Annotated[
    str,
    _described(
        "running, working or blocked; or, at its end, completed, failed, error or "
        "terminated, which ends the agent."
    ),
]
Message = Annotated[str, _described("What it is doing, or has done.")]
Progress = Annotated[
    int | float | None, _described("How far it is, 0 to 100 per cent; by default as before.")
]
FindingType = Annotated[str, _described("issue, solution, insight, question, …")]
Severity = Annotated[str, _described("How bad it is: info, low, medium, high or critical.")]
Found = Annotated[str, _described("What was found.")]
Data = Annotated[dict[str, Any] | None, _described("More about it, as JSON.")]

# --- hints ---------------------------------------------------------------------------------------

Hints = dict[str, bool]  #: As the protocol names them.

READS: Hints = {"readOnlyHint": True, "idempotentHint": True, "openWorldHint": False}
ADDS: Hints = {"readOnlyHint": False, "destructiveHint": False, "openWorldHint": False}
RUNS: Hints = {"readOnlyHint": False, "destructiveHint": False, "openWorldHint": True}
ENDS: Hints = {
    "readOnlyHint": False,
    "destructiveHint": True,
    "idempotentHint": True,
    "openWorldHint": False,
}
