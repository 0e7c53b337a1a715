"""
Fixtures to test an orchestrator of your own: with neither tmux nor time.

Pytest loads this by itself wherever the package is installed. A project that asks
for none of the fixtures pays for the import of this module alone: everything else
is imported in them.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from orchestrator_core.orchestrator import Orchestrator
    from orchestrator_core.testing.crashes import CrashPoints
    from orchestrator_core.testing.scene import Scene
    from orchestrator_core.testing.scripts import Script
    from orchestrator_core.testing.terminal import FakeTerminal

#: A test is nobody's agent, though it may well be one that runs the tests.
_AMBIENT = ("ORCHESTRATOR_", "CLAUDE_ORCHESTRATOR_")


class _Stage:
    """What one test's fixtures share. It is torn down after whatever uses any of them."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.insists = False  #: Whether nothing may be left.


@pytest.fixture
def _orchestrator_core_stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Stage]:
    from orchestrator_core.testing.leaks import Watch  # noqa: PLC0415 - see the module
    from orchestrator_core.testing.scene import Scene  # noqa: PLC0415 - the same

    for name in [name for name in os.environ if name.startswith(_AMBIENT)]:
        monkeypatch.delenv(name)
    with Watch() as watch, Scene() as scene:
        stage = _Stage(scene)
        yield stage
        left = watch.left() if stage.insists else []
    if left:
        pytest.fail("\n".join(["left behind by the test:", *left]), pytrace=False)


@pytest.fixture
def fake_terminal(_orchestrator_core_stage: _Stage) -> FakeTerminal:
    """
    Sessions, processes and time, none of them real: what `orchestrator` runs its agents in.

    `fake_terminal.agents["claude"] = Exits(0, after_s=60)` says how a program lives.
    """
    return _orchestrator_core_stage.scene.terminal


@pytest.fixture
def orchestrator(_orchestrator_core_stage: _Stage) -> Orchestrator:
    """An Orchestrator on a root of its own, in memory, with `fake_terminal` for tmux."""
    return _orchestrator_core_stage.scene.orchestrator()


@pytest.fixture
def fake_agent(
    _orchestrator_core_stage: _Stage, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str, Script | None], str]:
    """
    Have a program on the PATH that need not be installed, and a script that it lives by.

    `fake_agent("claude", Exits(0, after_s=60))`; without a script it runs until it is ended.
    """
    scene = _orchestrator_core_stage.scene
    programs = scene.place / "bin"

    def install(name: str, script: Script | None = None) -> str:
        if not programs.is_dir():
            programs.mkdir()
            monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
        program = programs / name
        program.write_text("#!/bin/sh\nexit 1  # A fake terminal plays it, and never runs it.\n")
        program.chmod(0o755)
        if script is not None:
            scene.terminal.agents[name] = script
        return str(program)

    return install


@pytest.fixture
def crash_points(fake_terminal: FakeTerminal) -> CrashPoints:
    """
    Kill your own code at every effect it has, and recover.

    `crash_points(act, then=check)` calls `act` with an orchestrator, kills it at an effect,
    recovers, and calls `check`; once for each effect, each time in a world of its own, in
    which agents live by the scripts of `fake_terminal`.
    """
    from orchestrator_core.testing.crashes import CrashPoints  # noqa: PLC0415 - see the module

    return CrashPoints(fake_terminal)


@pytest.fixture
def no_leaks(_orchestrator_core_stage: _Stage) -> None:
    """
    Fail a test that leaves a session, a process, an open saga or a file outside the archive.

    It looks at every root that is opened in this process, on the fake or on real tmux.
    """
    _orchestrator_core_stage.insists = True
