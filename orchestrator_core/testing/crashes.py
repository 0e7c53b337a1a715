"""
Kill your own code at every effect it has, and see what recovery makes of it.

::

    def hand_out(orch):
        task = orch.create_task("Find the slow query")
        orch.deploy(task.id, AgentSpec(type="worker", prompt="…", command=["claude", "-p"]))

    CrashPoints()(hand_out, then=lambda orch: ...)  # 90 crashes, each in a world of its own
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import attrs

from orchestrator_core.testing.effects import OPEN_FILE, CrashAt, CrashedError
from orchestrator_core.testing.leaks import leaks
from orchestrator_core.testing.scene import Scene

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from orchestrator_core.testing.fake_terminal import FakeTerminal

_A_WHILE_S = 60.0  #: Of virtual time, in which whoever has something left to do does it.


@attrs.frozen
class CrashPoint:
    """One instant of some code: right before or after one of its effects."""

    number: int  #: Of the effect, counted from 0.
    when: str  #: "before" or "after".
    effect: str  #: In words.

    def __str__(self) -> str:
        return f"{self.when} effect {self.number} ({self.effect})"


class CrashPoints:
    """
    Kills code at every effect it has, and recovers; each time in a world of its own.

    Agents live by the scripts of *terminal*, as they are when this is called.
    """

    def __init__(self, terminal: FakeTerminal | None = None) -> None:
        self._terminal = terminal

    def __call__(
        self,
        act: Callable[..., object],
        *,
        then: Callable[..., object] | None = None,
        prepare: Callable[..., object] | None = None,
        at_most: int | None = None,
    ) -> list[CrashPoint]:
        """
        Let *act* die at each of its effects, and return at which it did.

        *act* is called with an orchestrator, dies, and leaves what it has done so far.
        The root is then opened anew, which recovers it, and *then* is called with that
        orchestrator, to assert what has to hold however far *act* came; once also for an
        *act* that was not killed. After that all agents are ended, and nothing may be
        left. What *prepare*, called first, returns is given to both as well. With
        *at_most*, so many points are tried, evenly spread.

        *act* has to do the same each time, and to leave no threads behind.

        Raises:
            AssertionError: Something was left; or what *then* has raised. A note of
                the exception says where *act* was killed.
        """
        scenario = _Scenario(act, then, prepare)
        points = evenly_spaced(self._points(scenario), at_most)
        return [point for point in points if self._survives(scenario, point)]

    def _points(self, scenario: _Scenario) -> list[CrashPoint]:
        """Return all instants that differ, from a run in which nobody dies."""
        with _noted("nobody was killed"), self._scene() as scene:
            nobody = CrashAt(scene.terminal, -1)
            orch, given = scenario.begin(scene)
            with nobody:
                scenario.act(orch, *given)
            scenario.end(scene, given)
        names, last = nobody.names, len(nobody.names) - 1
        points = []
        for number, name in enumerate(names):
            points.append(CrashPoint(number, "before", name))
            # Nothing happens between two effects, except to the content of file objects.
            if number == last or name.startswith(OPEN_FILE):
                points.append(CrashPoint(number, "after", name))
        return points

    def _survives(self, scenario: _Scenario, point: CrashPoint) -> bool:
        """Kill at *point* and recover; False if it did not come to that."""
        with _noted(f"killed {point}, and recovered"), self._scene() as scene:
            death = CrashAt(scene.terminal, point.number, point.when)
            orch, given = scenario.begin(scene)
            with death, contextlib.suppress(CrashedError):
                _until(death, scenario.act, orch, *given)
            scenario.end(scene, given)
        return death.crashed

    def _scene(self) -> Scene:
        if self._terminal is None:
            return Scene()
        return Scene(self._terminal.agents, default=self._terminal.default)


@contextlib.contextmanager
def _noted(note: str) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        error.add_note(note)
        raise


def _until(death: CrashAt, act: Callable[..., object], *args: object) -> None:
    """Act; what a dead man raises is heard by nobody."""
    try:
        act(*args)
    except Exception:
        if not death.crashed:
            raise


@attrs.frozen
class _Scenario:
    """What is tried: what comes before, the code itself, and what has to hold afterwards."""

    act: Callable[..., object]
    then: Callable[..., object] | None
    prepare: Callable[..., object] | None

    def begin(self, scene: Scene) -> tuple[Any, Sequence[object]]:
        orch = scene.orchestrator()
        return orch, () if self.prepare is None else (self.prepare(orch),)

    def end(self, scene: Scene, given: Sequence[object]) -> None:
        """Recover, ask what has to hold, end everyone, and insist that nothing is left."""
        orch = scene.orchestrator()
        if self.then is not None:
            self.then(orch, *given)
        for agent in orch.agents(status="active"):
            orch.terminate(agent.id, reason="the test is over")
        orch.recover(force=True)
        orch.create_task("the next one")  # It clears away what is left of one half made.
        scene.terminal.pass_time(_A_WHILE_S)
        left = [*leaks(orch), *map(repr, scene.terminal.errors)]
        if left:
            raise AssertionError("\n".join(["left behind:", *left]))


def evenly_spaced(points: list[CrashPoint], at_most: int | None) -> list[CrashPoint]:
    """Return *at_most* of them, evenly spread, the first and the last included."""
    if at_most is None or len(points) <= at_most:
        return points
    last, gaps = len(points) - 1, max(at_most - 1, 1)
    return [points[number * last // gaps] for number in range(at_most)]
