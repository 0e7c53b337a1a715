"""
Agents that another system started in the same root: the access to them, and the null case.

Such an agent has a record and files, but no journal, no supervisor and no cookie. A room
above derives a class from :class:`Predecessor`, and the facade passes it to the root context.
:class:`Predecessor` itself is for a root without such agents.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from orchestrator_core.exceptions import NotFound

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestrator_core.model.outcome import EndReport
    from orchestrator_core.model.records import Agent
    from orchestrator_core.saga import History, Sagas, Step, Unwind
    from orchestrator_core.system.processes.protocol import Identity, OwnershipSelector


class PredecessorSession(Protocol):
    """The receipt of a session that the other system started."""

    cookie: str  #: What a deployment would give its processes.

    @property
    def supervisor(self) -> Identity | None:
        """The process with which the session ends."""

    @property
    def exit_file(self) -> None:
        """None: no supervisor writes an exit record."""

    @property
    def selector(self) -> OwnershipSelector:
        """The agent's processes."""


class Predecessor:
    """Access to the agents that another system started in this root; here, there are none."""

    def steps(self) -> Sequence[Step[Any]]:
        """Return the steps that only such agents have, for undoing."""
        return ()

    def wrote(self, record: Mapping[str, Any]) -> bool:  # noqa: ARG002 - for a subclass
        """Return whether the other system wrote a record or a registry entry."""
        return False

    def ended_entries(self) -> frozenset[str]:
        """Return the ids of ended agents that the global registry still lists as live."""
        return frozenset()

    def adopt(
        self,
        sagas: Sagas,  # noqa: ARG002 - for a subclass
        agent_id: str,
        why: Unwind | None,  # noqa: ARG002 - the same
    ) -> EndReport | None:
        """
        Create a journal for an agent, or return its report if it holds nothing.

        Raises:
            NotFound: The other system recorded no such agent.
            CouldNotAsk: Whether it lives, or what belongs to it, is unknown.
        """
        raise NotFound(f"there is no agent {agent_id!r}")

    def recorded_end(self, history: History) -> Unwind | None:  # noqa: ARG002 - for a subclass
        """Return the end that the other system recorded for an adopted agent."""
        return None

    def report(self, agent: Agent) -> EndReport:
        """Return how an agent ended, by its record."""
        raise NotFound(f"there is no report of agent {agent.id!r}")

    def spawn_unwinder(self, agent_id: str) -> None:
        """Start a process outside the agent that unwinds it: the agent has no supervisor."""
