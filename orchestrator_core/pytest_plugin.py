"""
Pytest fixtures for tests of your own orchestrator, without tmux and without waiting.

Pytest loads this plugin wherever the package is installed. A project that uses no fixture pays
only for the import of this module: the fixtures import everything else.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from orchestrator_core.orchestrator import Orchestrator
    from orchestrator_core.testing.crashes import CrashPoints
    from orchestrator_core.testing.fake_terminal import FakeTerminal
    from orchestrator_core.testing.scene import Scene
    from orchestrator_core.testing.scripts import Script

#: Unset in each test: an agent may run the tests, but no test is an agent.
_AMBIENT = ("ORCHESTRATOR_", "CLAUDE_ORCHESTRATOR_")


class _TestRoot:
    """The state that the fixtures of one test share; it outlives them all."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.forbids_leaks = False


@pytest.fixture
def _orchestrator_core_root(monkeypatch: pytest.MonkeyPatch) -> Iterator[_TestRoot]:
    from orchestrator_core.testing.leaks import (  # noqa: PLC0415 - see the module
        leaks,
        record_opened_roots,
    )
    from orchestrator_core.testing.scene import Scene  # noqa: PLC0415 - the same

    for name in [name for name in os.environ if name.startswith(_AMBIENT)]:
        monkeypatch.delenv(name)
    with record_opened_roots() as opened, Scene() as scene:
        test_root = _TestRoot(scene)
        yield test_root
        checked = opened.values() if test_root.forbids_leaks else ()
        left = [sentence for orch in checked for sentence in leaks(orch)]
    if left:
        pytest.fail("\n".join(["left behind by the test:", *left]), pytrace=False)


@pytest.fixture
def fake_terminal(_orchestrator_core_root: _TestRoot) -> FakeTerminal:
    """
    The fake sessions, processes and time of `orchestrator`.

    `fake_terminal.agents["claude"] = Exits(0, after_s=60)` sets the script of a program.
    """
    return _orchestrator_core_root.scene.terminal


@pytest.fixture
def orchestrator(_orchestrator_core_root: _TestRoot) -> Orchestrator:
    """An Orchestrator on a new root, in memory, with `fake_terminal` instead of tmux."""
    return _orchestrator_core_root.scene.orchestrator()


@pytest.fixture
def fake_agent(
    _orchestrator_core_root: _TestRoot, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str, Script | Sequence[Script] | None], str]:
    """
    A function that puts a stand-in for a program on the PATH, and sets its script.

    `fake_agent("claude", Exits(0, after_s=60))`; without a script it runs until it is ended.
    A list has one script for each of its lives, and the last one for all others.
    """
    scene = _orchestrator_core_root.scene
    programs = scene.place / "bin"

    def install(name: str, script: Script | Sequence[Script] | None = None) -> str:
        if not programs.is_dir():
            programs.mkdir()
            monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
        program = programs / name
        program.write_text("#!/bin/sh\nexit 1  # The fake terminal never runs it.\n")
        program.chmod(0o755)
        if script is not None:
            scene.terminal.agents[name] = script
        return str(program)

    return install


@pytest.fixture
def crash_points(fake_terminal: FakeTerminal) -> CrashPoints:
    """
    A crash test: kill your code at each of its effects, and recover.

    `crash_points(act, then=check)` calls `act` with an orchestrator, kills it at an effect,
    recovers, and calls `check`; once for each effect, each time in a new fake world with the
    scripts of `fake_terminal`.
    """
    from orchestrator_core.testing.crashes import CrashPoints  # noqa: PLC0415 - see the module

    return CrashPoints(fake_terminal)


@pytest.fixture
def no_leaks(_orchestrator_core_root: _TestRoot) -> None:
    """
    Fail a test that leaves a session, a process, an open saga or a file outside the archive.

    It inspects every root that is opened in this process, on the fake or on real tmux.
    """
    _orchestrator_core_root.forbids_leaks = True
