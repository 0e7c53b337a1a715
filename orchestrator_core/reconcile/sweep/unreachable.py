"""
Terminal servers that live and cannot be asked, since nothing leads to them.

A server whose socket file was removed reads as "no server". So does one whose path in
``root.json`` was changed. The kernel contradicts that: the supervisor of an agent lives and
still has its terminal, which the end of the session or of the server takes away. Such an agent
is left alone and is reported. tmux makes its socket anew when it gets a SIGUSR1.
"""

from __future__ import annotations

import signal
from collections import defaultdict
from typing import TYPE_CHECKING

from orchestrator_core.system.unix_socket import has_listener

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from orchestrator_core.deployment.context import RootContext
    from orchestrator_core.reconcile.sweep.saga_snapshot import SagaState
    from orchestrator_core.system.processes.protocol import Identity

_MAX_NAMED = 5  #: Agents in one line.


def describe(states: Iterable[SagaState], socket: Path) -> Iterator[str]:
    """Yield a line about each server, with its agents and what a person can do."""
    for server, agents in _agents_by_server(states).items():
        names = ", ".join(agents[:_MAX_NAMED]) + (" and more" if len(agents) > _MAX_NAMED else "")
        if server is None:
            which, remedy = "a terminal server that is not known", "see: orchestrator-core doctor"
        else:
            which = f"the terminal server pid {server.pid}"
            remedy = f"kill -USR1 {server.pid} makes tmux create its socket again"
        yield (
            f"the sessions of {len(agents)} live agents ({names}): {which} has them, and is not "
            f"reached at {socket}; its socket was removed, or root.json was changed; {remedy}"
        )


def request_sockets(context: RootContext, states: Iterable[SagaState]) -> list[int]:
    """
    Let each unreachable server make its socket anew; return the pids of these servers.

    Nothing happens while any process listens at the root's socket: that process would lose it.
    """
    servers = [server for server in _agents_by_server(states) if server is not None]
    if not servers or has_listener(context.socket):
        return []
    return [each.pid for each in servers if context.processes.signal(each, signal.SIGUSR1)]


def _agents_by_server(states: Iterable[SagaState]) -> dict[Identity | None, list[str]]:
    found: dict[Identity | None, list[str]] = defaultdict(list)
    for state in states:
        if state.is_unreachable:
            found[None if state.pane is None else state.pane.server].append(state.agent_id)
    return dict(found)
