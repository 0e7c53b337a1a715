"""
The power fails after any call: acknowledged changes are there, the rest is all or nothing.

The things of these sagas survive (the shelf is in memory), so those that were taken must be undone.
"""

import os
import shutil

import pytest
from power_failure import Disk, outcomes
from saga_kit import Shelf, Thing, litter, open_journals, stands

from orchestrator_core.saga import Sagas, Unwind
from orchestrator_core.system import durable

NAMES = ("a", "b")


class Recorded:
    """A directory of sagas on a recorded disk, with the things taken at each call."""

    def __init__(self, place):
        self.shelf = Shelf()
        self.sagas = Sagas(place, steps=[Thing(self.shelf)])
        self.disk = Disk(place)
        self.moments = []  #: For each state of the disk: the resources that each saga holds.

    def live(self, story):
        with self.disk.recording():
            story(self)

    def begin(self, saga_id):
        saga = self.sagas.begin(saga_id, [_Dated(self, f"{saga_id}-{name}") for name in NAMES])
        self.disk.acknowledge(("begun", saga_id))
        return saga

    def commit(self, saga_id):
        saga = self.begin(saga_id)
        saga.run()
        saga.commit()
        self.disk.acknowledge(("committed", saga_id))
        saga.release()

    def end(self, saga_id):
        self.disk.acknowledge(("ending", saga_id))
        self.sagas.unwind(saga_id, Unwind.terminal())
        self.disk.acknowledge(("closed", saga_id))


class _Dated(Thing):
    """A thing that records the state of the disk at which it was taken."""

    def __init__(self, recorded, name):
        super().__init__(recorded.shelf, name)
        object.__setattr__(self, "recorded", recorded)

    def do(self, receipt):
        self.recorded.moments.append((len(self.recorded.disk.states), "take", receipt))
        return super().do(receipt)


def one_life(recorded):
    recorded.commit("s")
    recorded.end("s")


def two_lives_at_once(recorded):
    recorded.commit("s")
    other = recorded.begin("t")
    recorded.end("s")
    other.run()
    other.commit()
    recorded.disk.acknowledge(("committed", "t"))
    other.release()


def many_lives(recorded):
    for number in range(5):
        recorded.commit(f"s{number}")


def fails_and_is_rolled_back(recorded):
    recorded.shelf.fail("do", "s-b", ValueError("no"))

    def fails():
        with recorded.begin("s") as saga:
            recorded.disk.acknowledge(("ending", "s"))
            saga.run()

    with pytest.raises(ValueError, match="no"):
        fails()
    recorded.disk.acknowledge(("closed", "s"))
    recorded.commit("t")


def begun_while_another_is(recorded):
    """Between the name of a journal and its fsync, another saga begins."""
    real = durable.fsync_directory

    def begun_first(directory):
        durable.fsync_directory = real
        recorded.commit("in-between")
        real(directory)

    durable.fsync_directory = begun_first
    recorded.commit("last")


@pytest.mark.parametrize(
    "story",
    [
        one_life,
        two_lives_at_once,
        many_lives,
        fails_and_is_rolled_back,
        begun_while_another_is,
    ],
)
def test_acknowledged_changes_survive_a_power_failure_at_any_call(memory_tmp, story, monkeypatch):
    recorded = Recorded(memory_tmp / "sagas")
    recorded.live(story)
    monkeypatch.setattr(os, "fsync", lambda _fd: None)  # The calls from here on are not recorded.
    for moment, state in enumerate(recorded.disk.states, 1):
        for left in outcomes(state, most=6, seed=moment):
            after_the_failure(memory_tmp / "after", left, recorded, moment, dict_of(state[3]))


def dict_of(acknowledged):
    """Return the last promise for each saga."""
    return {saga_id: promise for promise, saga_id in acknowledged}


def after_the_failure(place, left, recorded, moment, promised):
    shutil.rmtree(place, ignore_errors=True)
    (place / "closed").mkdir(parents=True)
    for name, (data, mode) in left.items():
        (place / name).write_bytes(data)
        (place / name).chmod(mode)
    taken = [receipt for at, _, receipt in recorded.moments if at <= moment]
    shelf = Shelf(held={receipt.name: receipt.owner for receipt in taken})

    sagas = Sagas(place, steps=[Thing(shelf)])
    report = sagas.recover()

    assert ({}, {}, []) == (report.failed, report.damaged, litter(place))
    assert [f"{saga_id}.jsonl" for saga_id in report.alive] == open_journals(place)
    for saga_id, promise in promised.items():
        stand = stands(place, saga_id)
        assert (
            stand
            in {
                "begun": ("closed", "committed"),
                "committed": ("committed",),
                "ending": ("closed", "committed"),
                "closed": ("closed",),
            }[promise]
        ), (saga_id, promise, sorted(left))
    for owner in set(shelf.held.values()):
        assert owner in report.alive or stands(place, owner) == "closed"
        mine = [name for name, other in shelf.held.items() if other == owner]
        # What an ended saga gave back before the failure was given back: the shelf is of memory.
        assert owner in report.alive or mine == [] or promised.get(owner) in ("ending", "closed")
