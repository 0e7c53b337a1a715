"""
Crash points: kill code under test at each of its effects, recover, and check the result.

::

    def hand_out(orch):
        task = orch.create_task("Find the slow query")
        orch.deploy(task.id, AgentSpec(type="worker", prompt="…", command=["claude", "-p"]))

    CrashPoints()(hand_out, then=lambda orch: ...)  # 90 crashes, each in a new world
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import attrs

from orchestrator_core.testing.effects import OPEN_FILE, CrashAt, CrashedError
from orchestrator_core.testing.fake_terminal import FakeTerminal
from orchestrator_core.testing.leaks import leaks
from orchestrator_core.testing.scene import Scene

if TYPE_CHECKING:
    from collections.abc import Callable

_SETTLE_S = 60.0  #: Virtual time for everything that is still scheduled.


@attrs.frozen
class CrashPoint:
    """One instant of the code under test: right before or after one of its effects."""

    number: int  #: The number of the effect, from 0.
    when: str  #: "before" or "after".
    effect: str  #: The call, and the last part of its path.

    def __str__(self) -> str:
        return f"{self.when} effect {self.number} ({self.effect})"


class CrashPoints:
    """
    Kills the code under test at each of its effects, and recovers, each time in a new world.

    Agents follow the scripts that *terminal* has at the time of the call.
    """

    def __init__(self, terminal: FakeTerminal | None = None) -> None:
        self._terminal = terminal or FakeTerminal()

    def __call__(
        self,
        act: Callable[..., object],
        *,
        then: Callable[..., object] | None = None,
        prepare: Callable[..., object] | None = None,
        at_most: int | None = None,
    ) -> list[CrashPoint]:
        """
        Kill *act* at each of its effects; return the points at which it was killed.

        For each point, in a new world:

        1. *prepare* is called with an orchestrator; the other two get its result as well.
        2. *act* is called with the orchestrator, and killed.
        3. The root is opened again, which recovers it. *then* is called with the new
           orchestrator, and asserts what has to hold wherever *act* was killed.
        4. All agents are ended, and nothing may be left.

        One more run does not kill *act*. With *at_most*, that many evenly spaced points are
        tried. *act* must have the same effects each time, and leave no threads behind.

        Raises:
            AssertionError: Something was left, or *then* raised it. A note names the point at
                which *act* was killed.
        """
        scenario = _Scenario(self._terminal, act, then, prepare)
        points = evenly_spaced(scenario.points(), at_most)
        return [point for point in points if scenario.crashes_at(point)]


@attrs.frozen
class _Scenario:
    """The code under test, with what comes before it and what has to hold afterwards."""

    terminal: FakeTerminal
    act: Callable[..., object]
    then: Callable[..., object] | None
    prepare: Callable[..., object] | None

    def points(self) -> list[CrashPoint]:
        """Return all distinct instants, from a run without a crash."""
        names = self._run(-1, "before", "not killed").names
        points = []
        for number, name in enumerate(names):
            points.append(CrashPoint(number, "before", name))
            # After one effect is before the next, except for the buffer of a file object.
            if number == len(names) - 1 or name.startswith(OPEN_FILE):
                points.append(CrashPoint(number, "after", name))
        return points

    def crashes_at(self, point: CrashPoint) -> bool:
        """Kill at *point* and recover; return False if *act* did not get there."""
        return self._run(point.number, point.when, f"killed {point}, and recovered").crashed

    def _run(self, number: int, when: str, note: str) -> CrashAt:
        """Run everything in a new world; add *note* to an error."""
        try:
            with Scene(self.terminal.agents, default=self.terminal.default) as scene:
                crash = CrashAt(scene.terminal, number, when)
                orch = scene.orchestrator()
                given = () if self.prepare is None else (self.prepare(orch),)
                self._act(crash, orch, *given)
                self._check(scene, *given)
        except BaseException as error:
            error.add_note(note)
            raise
        return crash

    def _act(self, crash: CrashAt, *args: object) -> None:
        """Run the code under test; ignore what it raises after the crash."""
        with crash, contextlib.suppress(CrashedError):
            try:
                self.act(*args)
            except Exception:
                if not crash.crashed:
                    raise

    def _check(self, scene: Scene, *given: object) -> None:
        """Recover, check what has to hold, end all agents, and check that nothing is left."""
        orch = scene.orchestrator()
        if self.then is not None:
            self.then(orch, *given)
        for agent in orch.agents(status="active"):
            orch.terminate(agent.id, reason="the test is over")
        orch.recover(force=True)
        orch.create_task("the next one")  # Removes the rest of an unfinished one.
        scene.terminal.pass_time(_SETTLE_S)
        left = [*leaks(orch), *map(repr, scene.terminal.errors)]
        if left:
            raise AssertionError("\n".join(["left behind:", *left]))


def evenly_spaced(points: list[CrashPoint], at_most: int | None) -> list[CrashPoint]:
    """Return *at_most* of *points*, evenly spaced, the first and the last included."""
    if at_most is None or len(points) <= at_most:
        return points
    last, gaps = len(points) - 1, max(at_most - 1, 1)
    return [points[number * last // gaps] for number in range(at_most)]
