"""A deployment visits a bounded number of modules, so that a reader can follow it."""

from __future__ import annotations

import sys
from pathlib import Path

import orchestrator_core
from orchestrator_core import AgentSpec
from orchestrator_core.testing import Scene

PACKAGE = Path(orchestrator_core.__file__).parent
LIMIT = 50

#: Beside the fakes: real life runs these in the supervisor's process, and the fake terminal
#: calls them in the deploying thread.
OTHER_PROCESS = ("testing/", "supervisor/gate", "supervisor/exit_recorder")


class Visited:
    """The modules of the package whose functions this thread calls for the deployer's process."""

    def __init__(self):
        self.modules = set()

    def __enter__(self):
        sys.setprofile(self._note)
        return self.modules

    def __exit__(self, *_):
        sys.setprofile(None)

    def _note(self, frame, event, _argument):
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(PACKAGE):
            module = path.relative_to(PACKAGE).with_suffix("").as_posix()
            if not module.startswith(OTHER_PROCESS):
                self.modules.add(module)


def test_a_deployment_visits_a_bounded_number_of_modules():
    spec = AgentSpec(type="a", prompt="x", command=["sh", "-c", "sleep 100"])
    with Scene() as scene:
        orch = scene.orchestrator()
        task = orch.create_task("a task").id
        orch.terminate(orch.deploy(task, spec).id)  # Imports and caches are warm then.
        with Visited() as modules:
            orch.deploy(task, spec)
        assert len(modules) < LIMIT, sorted(modules)
