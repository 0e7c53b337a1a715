"""What an agent is told about itself: the names that it finds in its environment."""

from __future__ import annotations

ORCHESTRATOR = "orchestrator"  #: The parent of an agent that no agent deployed.

#: What an agent finds in its environment, and may not be given by a spec.
ENV_ROOT = "ORCHESTRATOR_ROOT"
ENV_AGENT = "ORCHESTRATOR_AGENT_ID"
ENV_TASK = "ORCHESTRATOR_TASK_ID"
ENV_COOKIE = "ORCHESTRATOR_COOKIE"
RESERVED_ENV = frozenset({ENV_ROOT, ENV_AGENT, ENV_TASK, ENV_COOKIE})

#: An agent's bare ``tmux kill-server`` must not reach the server it runs on.
HIDDEN_ENV = frozenset({"TMUX", "TMUX_PANE"})
