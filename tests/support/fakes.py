"""A scene on the fake terminal: the files are real, sessions and processes are not."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path

from orchestrator_core import AgentSpec, Orchestrator
from orchestrator_core.testing import Exits, FakeTerminal, Refuses, Runs
from orchestrator_core.testing.effects import CrashAt, CrashedError
from support.world import World

SCRIPTS = {
    "lives": Runs(),
    "stubborn": Runs(ignores_term=True, daemon=True),
    "stray": Runs(stray=True),
    "unkillable": Runs(unkillable=True),
    "finishes": Exits(0, after_s=5.0),
    "fails": Exits(3, after_s=5.0),
    "dies-early": Exits(3, after_s=0.1),
    "refuses": Refuses(),
}


class FakeWorld(World):
    """The same checks, with the sessions and processes of the fake."""

    def __init__(self, place, root, fake):
        super().__init__(place, root)
        self.fake = fake

    def sessions(self):
        return sorted(session.name for session in self.fake.sessions())

    def processes(self):
        return {process.pid: process.name for process in self.fake.alive()}

    def cgroups(self):
        return []

    def torn(self, *, cgroups=False):
        return super().torn(cgroups=cgroups)

    def _agents_with_processes(self, _known):
        prefix = f"oc_{self.root_id}_"
        for process in self.fake.alive():
            if process.cookie:
                yield process.cookie.removeprefix(prefix)


class FakeScene:
    """One root on one fake, and orchestrators that crash on it."""

    def __init__(self, place):
        self.root = place / "ws"
        self.fake = FakeTerminal(agents=SCRIPTS, unwinder=self._unwind)
        self.world = FakeWorld(place, self.root, self.fake)
        self.bin = place / "bin"
        self.bin.mkdir()
        for name in SCRIPTS:
            (self.bin / name).write_text("#!/bin/sh\n")
            (self.bin / name).chmod(0o755)

    def orchestrator(self, **how):
        how.setdefault("recover", False)
        return Orchestrator(self.root, terminal=self.fake, **how)

    def _unwind(self, argv):
        self.orchestrator().finish(argv[-1])

    def spec(self, script="lives", **how):
        how = {"type": "a", "prompt": "do it", "cwd": "/", **how}
        return AgentSpec(command=[str(self.bin / script)], **how)

    def until_death(self, act, number, when="before"):
        """Run *act* with a crash at effect *number*; return whether the crash happened."""
        crash = CrashAt(self.fake, number, when)
        with crash, contextlib.suppress(CrashedError):
            act()
        return crash.crashed

    def effects(self, act):
        """Run *act* to its end; return the names of all effects."""
        with CrashAt(self.fake, -1) as living:
            act()
        return living.names


@contextlib.contextmanager
def a_fake_scene():
    """Make a scene on the fake, in a temporary directory."""
    place = Path(tempfile.mkdtemp(prefix="oc-", dir=fast_place()))
    try:
        yield FakeScene(place)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def fast_place():
    """Return a directory in memory: a fake needs no durability."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else "/tmp"
