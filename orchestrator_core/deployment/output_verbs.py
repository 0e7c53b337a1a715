"""The facade's verbs for what an agent has written: its output, and the result in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

from orchestrator_core.exceptions import InvalidInput
from orchestrator_core.model import environment
from orchestrator_core.model.environment import ENV_AGENT
from orchestrator_core.system.names import check_id

if TYPE_CHECKING:
    from orchestrator_core.deployment.output_reader import AgentOutput
    from orchestrator_core.deployment.queries import Queries
    from orchestrator_core.presets.result import AgentResult

_MAX_BYTES = 8 << 20  #: The limit of :meth:`OutputVerbs.read_output`, unless one is given.


class OutputVerbs:
    """What :class:`~orchestrator_core.orchestrator.Orchestrator` reads of an agent's output."""

    if TYPE_CHECKING:

        @property
        def _queries(self) -> Queries: ...

    def read_output(
        self,
        agent_id: str | None = None,
        *,
        tail: int | None = None,
        offset: int | None = None,
        max_bytes: int | None = _MAX_BYTES,
    ) -> AgentOutput:
        """
        Return what an agent has written, also from the archive: the end of it, or a page.

        The text is a ``str`` with the attributes ``truncated``, ``offset``, ``next_offset`` and
        ``size``, in bytes. It consists of whole lines, unless one line exceeds the limit; only a
        newline ends a line. Memory is bounded by *max_bytes*: by default 8 MiB, None for all.

        - *tail*: the number of last lines. Without it, as many as *max_bytes* allows.
        - *offset*: the page from this byte on. The next page begins at ``next_offset``; the last
          one ends at ``size``.

        Raises:
            NotFound: There is no such agent.
            InvalidInput: A number is negative, or *tail* and *offset* are both given.
            StorageError: The log cannot be read.
        """
        return self._queries.output(
            resolve_agent_id(agent_id), tail=tail, offset=offset, max_bytes=max_bytes
        )

    def open_output(self, agent_id: str | None = None) -> BinaryIO:
        """
        Open what an agent has written, also from the archive, as a file of bytes; close it.

        Raises:
            NotFound: There is no such agent.
            StorageError: The log cannot be opened.
        """
        return self._queries.open_output(resolve_agent_id(agent_id))

    def read_result(self, agent_id: str | None = None) -> AgentResult:
        """
        Return the result in an agent's own output: its last message, its answer, its cost.

        The log is read from its end, in bounded memory. A field is None if the output does not
        have it, as without a preset's tool. The agent wrote it, and it proves nothing.

        Raises:
            NotFound: There is no such agent.
            StorageError: Its log cannot be read.
        """
        return self._queries.result(resolve_agent_id(agent_id))


def resolve_agent_id(given: str | None) -> str:
    """
    Return the id that was given, or that of the agent around this process.

    Raises:
        InvalidInput: None was given, and this process is not inside an agent.
        InvalidId: It is no id.
    """
    if given is None:
        given = environment.variable(ENV_AGENT)
        if given is None:
            raise InvalidInput(
                "no agent was named, and this process is not inside one",
                hint=f"name one, or set {ENV_AGENT}",
            )
    return check_id("agent", given)
