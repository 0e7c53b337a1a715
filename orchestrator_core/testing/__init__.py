"""
A fake world to test deployments in: sessions, processes and time, none of them real.

::

    fake = FakeTerminal(agents={"crashes": Exits(3, after_s=0.2)}, default=Runs())
    orch = Orchestrator(root, terminal=fake, processes=fake.processes)

The fake is honest: it plays the supervisor on the **real files** (journal,
launch, log, events, exit), and the contract suite holds it and real tmux to the
same tests. Only time is virtual: waiting costs nothing, and brings what is
scripted for the time waited.
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
