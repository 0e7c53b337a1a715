"""The names of variables in an agent's environment."""

from __future__ import annotations

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
