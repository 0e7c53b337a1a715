"""
The cost of a durable saga: five steps that do nothing, done and undone.

    python benchmarks/saga.py [--rounds N] [DIRECTORY]

Medians and ratios of this run. The floor is floor_saga.py. With the extra
``bench`` (in a separate environment, because it has many dependencies) the same saga also
runs on DBOS with SQLite and on taskflow with its directory backend. Their cost is the floor
then, and the target is a tenth of it.
"""

# ruff: noqa: PLC0415 - the peers are imported if they are installed

from __future__ import annotations

import importlib.util
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

import _figures
import floor_saga
from _figures import Figure, counted_fsyncs, median, timed

from orchestrator_core.saga import Outcome, Presence, Sagas, Unwind, receipt

if TYPE_CHECKING:
    from pathlib import Path

STEPS = 5
PEER_ROUNDS = 20


@receipt("bench.nothing")
class Nothing:
    name: str


class Idle:
    """A step that does nothing."""

    receipt_type = Nothing

    def __init__(self, number: int = 0, *, fails: bool = False) -> None:
        self.name = f"step-{number}"
        self._fails = fails

    def plan(self, _ctx) -> Nothing:
        return Nothing(name=self.name)

    def do(self, receipt: Nothing) -> Nothing:
        if self._fails:
            raise Failed
        return receipt

    def undo(self, _receipt: Nothing, _why: Unwind) -> Outcome:
        return Outcome.undone()

    def probe(self, _receipt: Nothing) -> Presence:
        return Presence.ABSENT


class Failed(Exception):
    """The last step's failure."""


class Library:
    name = "library"

    def __init__(self, place: Path) -> None:
        self.sagas = Sagas(place / "library", steps=[Idle()])
        self.working = [Idle(number) for number in range(STEPS)]
        self.failing = [*self.working[:-1], Idle(STEPS - 1, fails=True)]

    def commit(self, saga_id: str) -> None:
        with self.sagas.begin(saga_id, self.working) as saga:
            saga.run()
            saga.commit()

    def end(self, saga_id: str) -> None:
        self.sagas.unwind(saga_id, Unwind.terminal("over"))

    def fail(self, saga_id: str) -> None:
        try:
            with self.sagas.begin(saga_id, self.failing) as saga:
                saga.run()
        except Failed:
            return
        raise AssertionError("it did not fail")


def figures(directory: str | None = None, rounds: int = 300) -> list[Figure]:
    with _figures.place(directory) as place, ExitStack() as stack:
        library, floor = Library(place), floor_saga.Place(str(place / "floor"))
        taken: dict[tuple[str, str], list[float]] = {}
        for number in range(-10, rounds):  # The first ten warm up.
            for verb, saga_id in (("commit", f"c{number + 10}"), ("end", f"c{number + 10}"),
                                  ("fail", f"f{number + 10}")):  # fmt: skip
                # Each is first in turn, because the first pays for the disk's pending work.
                for name, it in (("library", library), ("floor", floor))[
                    :: 1 if number % 2 else -1
                ]:
                    took_ms, _ = timed(getattr(it, verb), saga_id)
                    if number >= 0:
                        taken.setdefault((name, verb), []).append(took_ms)
        with counted_fsyncs() as seen:
            library.commit("counted")
        found = [
            Figure(
                name=f"saga of {STEPS} no-op steps, {what}",
                measured=median(taken["library", verb]),
                floor=median(taken["floor", verb]),
                at_most=1.5,
                note=f"{len(seen)} fsyncs" if verb == "commit" else "",
            )
            for verb, what in (
                ("commit", "committed"),
                ("fail", "the last one fails"),
                ("end", "ended later"),
            )
        ]
        for peer in peers(place, stack):
            found += beside(peer, library)
        return found


def beside(peer, library: Library) -> list[Figure]:
    """Let *peer* and the library take turns."""
    found = []
    for verb, what in (("commit", "committed"), ("fail", "the last one fails")):
        mine, theirs = [], []
        for number in range(PEER_ROUNDS + 2):
            saga_id = f"{verb}-{peer.slug}-{number}"
            theirs.append(timed(getattr(peer, verb), saga_id)[0])
            mine.append(timed(getattr(library, verb), saga_id)[0])
            if verb == "commit":
                library.end(saga_id)
        found.append(
            Figure(
                name=f"  … {what}; floor: {peer.name}",
                measured=median(mine[2:]),
                floor=median(theirs[2:]),
                at_most=0.1,
            )
        )
    return found


# --- peers -------------------------------------------------------------------------------------


def peers(place: Path, stack: ExitStack):
    """Yield the peers that are installed here."""
    for module, kind in (("dbos", DBOSPeer), ("taskflow", TaskflowPeer)):
        if importlib.util.find_spec(module) is None:
            print(f"{kind.name}: not installed here: pip install -e '.[bench]'", file=sys.stderr)
            continue
        peer = kind(place)
        stack.callback(peer.close)
        yield peer


class DBOSPeer:
    """A durable workflow of five steps; on failure, those done are compensated by steps."""

    name, slug = "DBOS on SQLite", "dbos"

    def __init__(self, place: Path) -> None:
        from dbos import DBOS, SetWorkflowID

        self._dbos, self._with_id = DBOS, SetWorkflowID
        config = {
            "name": "bench",
            "system_database_url": f"sqlite:///{place}/dbos.sqlite",
            "log_level": "CRITICAL",
        }
        DBOS(config=config)

        @DBOS.step()
        def do(number: int, fails: bool) -> int:  # noqa: FBT001 - as DBOS passes arguments
            if fails:
                raise Failed
            return number

        @DBOS.step()
        def undo(number: int) -> int:
            return number

        @DBOS.workflow()
        def saga(fails: bool) -> None:  # noqa: FBT001 - as DBOS passes arguments
            done = []
            try:
                for number in range(STEPS):
                    done.append(do(number, fails and number == STEPS - 1))  # noqa: PERF401 - undone below
            except Failed:
                for number in reversed(done):
                    undo(number)
                raise

        self._saga = saga
        DBOS.launch()

    def commit(self, saga_id: str) -> None:
        with self._with_id(saga_id):
            self._saga(False)  # noqa: FBT003 - see above

    def fail(self, saga_id: str) -> None:
        try:
            with self._with_id(saga_id):
                self._saga(True)  # noqa: FBT003 - see above
        except Failed:
            return
        raise AssertionError("it did not fail")

    def close(self) -> None:
        self._dbos.destroy()


class TaskflowPeer:
    """A linear flow of five tasks, persisted in a directory."""

    name, slug = "taskflow in a directory", "taskflow"

    def __init__(self, place: Path) -> None:
        from taskflow import engines, task
        from taskflow.patterns import linear_flow
        from taskflow.persistence import backends, models

        class Idle(task.Task):
            def execute(self):
                return None

            def revert(self, *_facts, **_more):
                return None

        class Fails(Idle):
            def execute(self):
                raise Failed

        def flow(fails: bool):  # noqa: FBT001 - one fact
            kinds = [*[Idle] * (STEPS - 1), Fails if fails else Idle]
            steps = [kind(name=f"step-{number}") for number, kind in enumerate(kinds)]
            return linear_flow.Flow("saga").add(*steps)

        def run(saga_id: str, *, fails: bool) -> None:
            book = models.LogBook(saga_id)
            detail = models.FlowDetail(saga_id, uuid=saga_id)
            book.add(detail)
            connection = self._backend.get_connection()
            connection.save_logbook(book)
            engines.run(flow(fails), flow_detail=detail, book=book, backend=self._backend)

        self._backend = backends.fetch({"connection": "dir", "path": str(place / "taskflow")})
        self._backend.get_connection().upgrade()
        self._run = run

    def commit(self, saga_id: str) -> None:
        self._run(saga_id, fails=False)

    def fail(self, saga_id: str) -> None:
        try:
            self._run(saga_id, fails=True)
        except Failed:
            return
        raise AssertionError("it did not fail")

    def close(self) -> None:
        self._backend.close()


if __name__ == "__main__":
    _figures.main(__doc__, figures)
