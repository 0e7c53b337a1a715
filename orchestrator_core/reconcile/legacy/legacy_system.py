"""The legacy system as the deployment's predecessor: each method leads to one module here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from orchestrator_core.deployment.predecessor import Predecessor
from orchestrator_core.reconcile.legacy import adoption
from orchestrator_core.reconcile.legacy import agent as legacy_agent
from orchestrator_core.reconcile.legacy.ended_entries import ended_entries
from orchestrator_core.reconcile.legacy.session_step import EndLegacySession

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestrator_core.deployment.context import RootContext
    from orchestrator_core.model.outcome import EndReport
    from orchestrator_core.model.records import Agent
    from orchestrator_core.saga import History, Sagas, Step, Unwind


@attrs.frozen
class LegacySystem(Predecessor):
    """The agents that the legacy system started below one root."""

    context: RootContext

    def steps(self) -> Sequence[Step[Any]]:
        """Return the step that ends a legacy agent's session."""
        return (EndLegacySession(self.context),)

    def wrote(self, record: Mapping[str, Any]) -> bool:
        """Return whether the legacy system wrote a record."""
        return legacy_agent.is_legacy(record)

    def ended_entries(self) -> frozenset[str]:
        """Return the legacy agents that have ended and are still listed as live."""
        return ended_entries(self.context)

    def adopt(self, sagas: Sagas, agent_id: str, why: Unwind | None) -> EndReport | None:
        """Create a journal for a legacy agent; see :func:`.adoption.adopt_if_needed`."""
        return adoption.adopt_if_needed(self.context, sagas, agent_id, why=why)

    def recorded_end(self, history: History) -> Unwind | None:
        """Return the end that the legacy system recorded for an adopted agent."""
        return adoption.recorded_end(self.context, history)

    def report(self, agent: Agent) -> EndReport:
        """Return how a legacy agent ended, by its record."""
        return legacy_agent.report_of(agent)

    def spawn_unwinder(self, agent_id: str) -> None:
        """Start a process outside a legacy agent that unwinds it."""
        adoption.spawn_unwinder(self.context, agent_id)
