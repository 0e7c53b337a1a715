"""Ids as a person types them: a task's for an agent's, or only the beginning of an id."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from orchestrator_core.exceptions import NotFound

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator_core.model.records import Agent
    from orchestrator_core.orchestrator import Orchestrator

_MAX_NAMED = 5  #: Ids that a hint names.


def find_agent(orch: Orchestrator, given: str | None) -> Agent:
    """
    Return the agent of an id, or the only one whose id begins so. Only for commands that read.

    Raises:
        NotFound: There is none, or there are several.
    """
    with explained(orch, given):
        try:
            return orch.agent(given)
        except NotFound:
            found = _beginning_with(orch, given or "")
            if len(found) != 1:
                raise
            return found[0]


@contextlib.contextmanager
def explained(orch: Orchestrator, given: str | None) -> Iterator[None]:
    """
    Let a NotFound about the id *given* explain what the id is, if it is known at all.

    Raises:
        NotFound: The block raised one.
    """
    try:
        yield
    except NotFound as error:
        raise _explain(orch, given, error) from error


def _explain(orch: Orchestrator, given: str | None, error: NotFound) -> NotFound:
    if given is None:
        return error
    if given in {task.id for task in orch.tasks()}:
        hint = f"orchestrator-core ps --all --task {given}"
        return NotFound(f"{given} is a task, not an agent", hint=hint)
    found = [agent.id for agent in _beginning_with(orch, given)]
    if given in found:
        return NotFound(f"{given} is an agent, not a task", hint=f"orchestrator-core show {given}")
    if found:
        names = ", ".join(found[:_MAX_NAMED])
        more = f" or {len(found) - _MAX_NAMED} more" if len(found) > _MAX_NAMED else ""
        return NotFound(str(error), hint=f"did you mean: {names}{more}?")
    return error


def _beginning_with(orch: Orchestrator, given: str) -> list[Agent]:
    return [agent for agent in orch.agents() if given and agent.id.startswith(given)]
