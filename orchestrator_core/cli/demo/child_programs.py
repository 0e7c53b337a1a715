"""
The other orchestrators of the demonstration: one is killed, one will not let go.

Each is a process of its own: ``python -P -m orchestrator_core.cli.demo.child_programs NAME …``.
"""

from __future__ import annotations

import os
import signal
import sys

from orchestrator_core import AgentSpec, Orchestrator
from orchestrator_core.model.layout import open_root
from orchestrator_core.saga import Observer
from orchestrator_core.system.locks import locked


class KilledAfter(Observer):
    """Kill this process, as nobody can prevent, as soon as one step is done."""

    def __init__(self, step: str) -> None:
        self._step = step

    def step_done(self, saga_id: str, step: str, duration_ms: float) -> None:
        """Tell it on stdout; then it is over."""
        print(saga_id, step, duration_ms, flush=True)
        if step == self._step:
            os.kill(os.getpid(), signal.SIGKILL)


def killed(root: str, task_id: str, step: str) -> None:
    """Deploy an agent, and be killed in the middle of it."""
    orch = Orchestrator(root, recover=False, observer=KilledAfter(step))
    spec = AgentSpec(type="orphan", prompt="You will never run.", command=["sleep", "3600"])
    orch.deploy(task_id, spec)


def greedy(root: str) -> None:
    """Hold the global registry's lock until stdin ends."""
    path = open_root(root).layout.global_registry
    with locked(path, timeout_s=10.0, what="the global registry"):
        print("held", flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
