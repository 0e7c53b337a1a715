"""
Names: of tasks, of agents, and of all that is derived from them.

An id goes into file names, tmux targets and cgroup directories, so it is made
of characters that mean nothing to any of them. Everything an agent holds is
named after its id: the id alone leads to all of it, even if every record is lost.
"""

from __future__ import annotations

import os
import time

from orchestrator_core.system.names import check_id

_LONGEST_TYPE = 60  #: Leaves room for what :func:`new_agent_id` adds.

#: What every agent's id looks like, ours and the old system's; see new_agent_id.
AGENT_ID = r"[A-Za-z0-9][A-Za-z0-9_-]{0,59}-[0-9]{6}-[0-9a-f]{6}"


def check_type(value: object) -> str:
    """
    Return *value* if it is safe as an agent's type, and leaves room for the rest of an id.

    Raises:
        InvalidId: It is not.
    """
    return check_id("agent type", value, longest=_LONGEST_TYPE)


def new_task_id() -> str:
    """Return an id no other task has: ``TASK-<date>-<time>-<8 hex>``, in local time."""
    return time.strftime("TASK-%Y%m%d-%H%M%S-") + os.urandom(4).hex()


def new_agent_id(agent_type: str) -> str:
    """
    Return an id that hardly any other agent has: ``<type>-<time>-<6 hex>``.

    One in 16 million may be of its type, of that second of a day, and have the same.

    Raises:
        InvalidId: The type cannot be part of an id.
    """
    check_type(agent_type)
    return time.strftime(f"{agent_type}-%H%M%S-") + os.urandom(3).hex()


def new_root_id() -> str:
    """Return an id no other root has: 8 hex."""
    return os.urandom(4).hex()


def process_cookie(root_id: str, saga_id: str) -> str:
    """
    Return the mark by which a saga knows its own sessions and processes.

    Derived, so that it is found again when the journal is lost; and with the
    root's id in it, so that the same id below another root is a stranger. It
    is visible to every user of the machine, and no secret.
    """
    return f"oc_{check_id('root', root_id)}_{check_id('saga', saga_id)}"


def cgroup_name(root_id: str, agent_id: str) -> str:
    """Return the name of an agent's cgroup directory."""
    return process_cookie(root_id, agent_id)


def session_name(agent_id: str) -> str:
    """Return the name of an agent's session."""
    return f"agent_{check_id('agent', agent_id)}"
