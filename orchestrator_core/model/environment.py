"""The names of variables in an agent's environment, and their values in the calling thread."""

from __future__ import annotations

import contextlib
import contextvars
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ORCHESTRATOR = "orchestrator"  #: The parent of an agent that no agent deployed.

#: Set in every agent's environment; a spec may not set them.
ENV_ROOT = "ORCHESTRATOR_ROOT"
ENV_AGENT = "ORCHESTRATOR_AGENT_ID"
ENV_TASK = "ORCHESTRATOR_TASK_ID"
ENV_COOKIE = "ORCHESTRATOR_COOKIE"
RESERVED_ENV = frozenset({ENV_ROOT, ENV_AGENT, ENV_TASK, ENV_COOKIE})

#: Among the variables that are not inherited: an agent's bare ``tmux kill-server`` must not end
#: its siblings. A step must not provide them.
HIDDEN_ENV = frozenset({"TMUX", "TMUX_PANE"})

#: In an unwinder's environment: the exit record of the supervisor that it was, as JSON.
ENV_EXIT_RECORD = "ORCHESTRATOR_EXIT_RECORD"

_OVERLAY: contextvars.ContextVar[Mapping[str, str] | None] = contextvars.ContextVar(
    "environment", default=None
)


def variable(name: str) -> str | None:
    """Return a variable of the agent that the calling thread acts as, or of this process."""
    overlay = _OVERLAY.get()
    return os.environ.get(name) if overlay is None else overlay.get(name)


@contextlib.contextmanager
def acting_with(overlay: Mapping[str, str]) -> Iterator[None]:
    """Within the block, :func:`variable` returns the values of *overlay* in this thread."""
    before = _OVERLAY.set(overlay)
    try:
        yield
    finally:
        _OVERLAY.reset(before)
