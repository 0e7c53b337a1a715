"""
A fake world for tests of deployments: fake sessions, fake processes, virtual time.

::

    fake = FakeTerminal(agents={"crashes": Exits(3, after_s=0.2)}, default=Runs())
    orch = Orchestrator(root, terminal=fake, processes=fake.processes)

The fake supervisor works on the **real files** (journal, launch, log, events, exit), and the
contract tests run on the fake and on real tmux. Time is virtual: a wait takes no real time, and
runs the events that are scheduled for the time waited.
"""

from orchestrator_core.testing.crashes import CrashPoint, CrashPoints
from orchestrator_core.testing.fake_processes import FakeProcesses
from orchestrator_core.testing.fake_terminal import FakeTerminal
from orchestrator_core.testing.fake_world import FakeProcess
from orchestrator_core.testing.leaks import leaks
from orchestrator_core.testing.scene import Scene
from orchestrator_core.testing.scripts import Dies, Exits, Refuses, Runs, Script

__all__ = [
    "CrashPoint",
    "CrashPoints",
    "Dies",
    "Exits",
    "FakeProcess",
    "FakeProcesses",
    "FakeTerminal",
    "Refuses",
    "Runs",
    "Scene",
    "Script",
    "leaks",
]
