"""
Legacy agents that no registry lists: what shows that one of them may be alive.

The legacy system starts an agent before it records it, and was perhaps killed in between. Its
newest version records agents in a database of its own (``registry/state.sqlite3``), which this
library does not read. So the files of an agent without a record may be those of a living one.

A session ``agent_ID`` on the default server, an open writer of its log, a process that reads
its prompt, or a process that names the agent makes its state *unknown*. Nothing of it is
touched then. If one of these cannot be asked, the agent is unknown, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator_core.exceptions import CouldNotAsk, TerminalError
from orchestrator_core.model.ids import session_name
from orchestrator_core.reconcile.legacy.proof import file_ids
from orchestrator_core.reconcile.legacy.server_protocol import legacy_server

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator_core.deployment.context import RootContext
    from orchestrator_core.model.layout import Layout


def foreign_note(layout: Layout) -> str:
    """Return why the agents of a newer version of the old system are unknown; "" for none."""
    if not layout.foreign_database.is_file():
        return ""
    return "another system records its agents there; they are not listed here, and not touched"


def signs_of_life(context: RootContext, agents: Mapping[str, str | None]) -> dict[str, str]:
    """
    Return why each of *agents* may be alive; those of which nothing shows that are left out.

    *agents* maps an agent's id to its task, if that is known. All share one call to tmux and two
    scans of the processes.
    """
    if not agents:
        return {}
    if foreign_note(context.layout):
        why = f"{context.layout.foreign_database.name} of another system may list it"
        return dict.fromkeys(agents, why)
    try:
        return {
            **_mentions(context, agents),
            **_open_files(context, agents),
            **_sessions(context, agents),
        }
    except (TerminalError, CouldNotAsk) as error:
        return dict.fromkeys(agents, f"whether it is alive could not be asked: {error}")


def _sessions(context: RootContext, agents: Mapping[str, str | None]) -> dict[str, str]:
    names = {session.name for session in legacy_server(context).sessions()}
    found = {agent_id: session_name(agent_id) for agent_id in agents}
    return {
        agent_id: f"there is a session {name} on the default tmux server"
        for agent_id, name in found.items()
        if name in names
    }


def _open_files(context: RootContext, agents: Mapping[str, str | None]) -> dict[str, str]:
    layout = context.layout
    owners = {}
    for agent_id, task_id in agents.items():
        if task_id is None:
            continue
        log = layout.log(task_id, agent_id)
        paths = (log, layout.archive(task_id) / log.name, layout.prompt(task_id, agent_id))
        owners.update(dict.fromkeys(file_ids(paths), agent_id))
    return {
        owners[each.file]: f"process {each.process.pid} ({each.name}) has a file of it open"
        for each in context.processes.find_open_files(owners.keys())
    }


def _mentions(context: RootContext, agents: Mapping[str, str | None]) -> dict[str, str]:
    return {
        each.word: f"process {each.process.pid} ({each.name}) names it"
        for each in context.processes.find_mentions(agents.keys())
    }
