"""
The ids of tasks and agents, and the names that are derived from them.

Everything that an agent holds is named after its id. The id alone leads to all of it, even
if every record is lost.
"""

from __future__ import annotations

import os
import time

from orchestrator_core.system.names import check_id

_LONGEST_TYPE = 60  #: Characters; leaves room for what :func:`new_agent_id` adds.

#: The pattern of every agent's id, also the old system's; see new_agent_id.
AGENT_ID = r"[A-Za-z0-9][A-Za-z0-9_-]{0,59}-[0-9]{6}-[0-9a-f]{6}"


def check_type(value: object) -> str:
    """
    Return *value* if it is safe as an agent's type, and short enough to be part of an id.

    Raises:
        InvalidId: The value is not safe, or too long.
    """
    return check_id("agent type", value, longest=_LONGEST_TYPE)


def new_task_id() -> str:
    """Return a new task's id: ``TASK-<date>-<time>-<8 hex>``, in local time."""
    return time.strftime("TASK-%Y%m%d-%H%M%S-") + os.urandom(4).hex()


def new_agent_id(agent_type: str) -> str:
    """
    Return a new agent's id: ``<type>-<time>-<6 hex>``, in local time.

    Two agents of one type that start in the same second of a day have the same id with a
    probability of 1 in 16 million.

    Raises:
        InvalidId: The type cannot be part of an id.
    """
    check_type(agent_type)
    return time.strftime(f"{agent_type}-%H%M%S-") + os.urandom(3).hex()


def process_cookie(root_id: str, saga_id: str) -> str:
    """
    Return the mark of a saga's sessions and processes.

    It is derived from the ids, so it is known even if the journal is lost. It contains the
    root's id, so the same saga id in another root has another mark. Every user of the
    machine can see it.
    """
    return f"oc_{check_id('root', root_id)}_{check_id('saga', saga_id)}"


def cgroup_name(root_id: str, agent_id: str) -> str:
    """Return the name of an agent's cgroup directory."""
    return process_cookie(root_id, agent_id)


def session_name(agent_id: str) -> str:
    """Return the name of an agent's session."""
    return f"agent_{check_id('agent', agent_id)}"
