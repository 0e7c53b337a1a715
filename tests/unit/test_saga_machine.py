"""The invariants of a saga under any order of events, by hypothesis."""

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule
from saga_kit import Shelf, Thing, litter, policy, snapshot, stands

from orchestrator_core.exceptions import SagaError, SagaNotFound
from orchestrator_core.saga import Sagas, State, Unwind

NAMES = ("a", "b", "c")
ALL_BUT_A_BYTE = 1 - 1 / 2000  #: Of a journal of 1,000 to 3,000 bytes: its last newline.


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _fd: None)


# --- any prefix -------------------------------------------------------------------------------


def a_whole_life(place, failing_do, failing_undo, *, ended):
    """Return the bytes of the journal of such a life."""
    shelf = Shelf()
    sagas = Sagas(place, steps=[Thing(shelf)])
    if failing_do is not None:
        shelf.fail("do", f"s-{failing_do}", ValueError("no"))
    if failing_undo is not None:
        shelf.fail("undo", f"s-{failing_undo}", OSError("no"), OSError("no"))
    try:
        with sagas.begin("s", shelf.things(*(f"s-{name}" for name in NAMES))) as saga:
            saga.run()
            saga.commit()
    except ValueError:
        pass
    else:
        if ended:
            sagas.unwind("s", Unwind.terminal("ended"))
    for path in (sagas.journals.file("s"), sagas.journals.closed_file("s")):
        if path.exists():
            return path.read_bytes()
    raise AssertionError("there is no journal")


def plan(_saga_id, _labels):
    return {
        thing.name: thing.plan(_Named("s")) for thing in Shelf().things(*(f"s-{n}" for n in NAMES))
    }


class _Named:
    def __init__(self, saga_id):
        self.saga_id = saga_id


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    failing_do=st.sampled_from([None, *NAMES]),
    failing_undo=st.sampled_from([None, *NAMES]),
    ended=st.booleans(),
    share=st.floats(0, 1),
    held=st.sets(st.sampled_from(NAMES)),
)
@example(failing_do=None, failing_undo=None, ended=False, share=ALL_BUT_A_BYTE, held={"a"})
@example(failing_do=None, failing_undo=None, ended=True, share=ALL_BUT_A_BYTE, held=set())
def test_any_prefix_of_any_journal_recovers_to_all_or_nothing(
    failing_do, failing_undo, ended, share, held
):
    """The saga is committed and its things are untouched, or it is closed and they are gone."""
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
        whole = a_whole_life(Path(one), failing_do, failing_undo, ended=ended)
        shelf = Shelf(held={f"s-{name}": "s" for name in held})
        before = dict(shelf.held)
        sagas = Sagas(two, steps=[Thing(shelf)])
        sagas.journals.file("s").write_bytes(whole[: round(share * len(whole))])

        report = sagas.recover(policy=policy(derive_receipts=plan), force=True)
        once = (snapshot(two), dict(shelf.held))
        sagas.recover(policy=policy(derive_receipts=plan))

        stand = stands(two, "s")
        assert {} == report.failed
        assert (before if stand == "committed" else {}) == without_those_undone(shelf.held, sagas)
        assert stand in ("committed", "closed")
        assert once == (snapshot(two), shelf.held)


def without_those_undone(held, sagas):
    """Return the held things without those whose undo is in the journal."""
    undone = {frame.name for frame in sagas.history("s").stack if frame.outcome is not None}
    return {name: owner for name, owner in held.items() if name not in undone}


# --- any order --------------------------------------------------------------------------------


class Lives(RuleBasedStateMachine):
    """Begin, run, fail, commit, unwind, crash and recover in any order on one directory."""

    ids = Bundle("ids")

    def __init__(self):
        super().__init__()
        self.place = tempfile.TemporaryDirectory()
        self.shelf = Shelf()
        self.sagas = Sagas(self.place.name, steps=[Thing(self.shelf)])
        self.owned = {}
        self.count = 0
        self.committed, self.ended = set(), set()

    def teardown(self):
        for saga in self.owned.values():
            saga.release()
        self.place.cleanup()

    @rule(target=ids)
    def begin(self):
        self.count += 1
        saga_id = f"s{self.count}"
        things = self.shelf.things(*(f"{saga_id}-{name}" for name in NAMES))
        self.owned[saga_id] = self.sagas.begin(saga_id, things)
        return saga_id

    @rule(saga_id=ids, failing=st.sampled_from([None, *NAMES]))
    def run(self, saga_id, failing):
        saga = self.owned.get(saga_id)
        if saga is None:
            return
        if failing:
            self.shelf.fail("do", f"{saga_id}-{failing}", ValueError("no"))
        try:
            with_owner = not saga.history.stack[-1].done
            saga.run()
        except ValueError:
            assert with_owner
            assert saga.unwind(Unwind.rollback("it failed")).closed
            self.let_go(saga_id)
            self.ended.add(saga_id)

    @rule(saga_id=ids)
    def commit(self, saga_id):
        saga = self.owned.get(saga_id)
        if saga is None:
            return
        try:
            saga.commit()
        except SagaError:
            assert not all(frame.done for frame in saga.history.stack)
        else:
            self.committed.add(saga_id)
            self.let_go(saga_id)

    @rule(saga_id=ids)
    def crash(self, saga_id):
        if saga_id in self.owned:
            self.let_go(saga_id)

    @rule(saga_id=ids, failing=st.sampled_from([None, None, *NAMES]))
    def unwind(self, saga_id, failing):
        if saga_id in self.owned:
            return
        if failing:
            self.shelf.fail("undo", f"{saga_id}-{failing}", OSError("no"), OSError("no"))
        report = self.sagas.unwind(saga_id, Unwind.terminal("over"))
        self.committed.discard(saga_id)
        if report.closed:
            self.ended.add(saga_id)

    @rule(force=st.booleans())
    def recover(self, force):
        report = self.sagas.recover(force=force)
        assert {} == report.failed == report.damaged
        assert set(self.owned) == set(report.busy)
        assert self.committed == set(report.alive)
        self.ended |= {saga_id for saga_id, unwound in report.unwound.items() if unwound.closed}

    @rule()
    def reopen(self):
        self.sagas = Sagas(self.place.name, steps=[Thing(self.shelf)])

    def let_go(self, saga_id):
        self.owned.pop(saga_id).release()

    @invariant()
    def a_committed_saga_holds_all_resources(self):
        for saga_id in self.committed:
            assert {f"{saga_id}-{name}" for name in NAMES} <= set(self.shelf.held)
            assert State.COMMITTED is self.sagas.history(saga_id).state

    @invariant()
    def an_ended_saga_holds_no_resource(self):
        owners = set(self.shelf.held.values())
        for saga_id in self.ended:
            assert saga_id not in owners
            assert "closed" == stands(self.place.name, saga_id)

    @invariant()
    def no_stray_file_is_left(self):
        assert [] == litter(self.place.name)


Lives.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestLives = pytest.mark.usefixtures("_no_waiting_for_the_disk")(Lives.TestCase)


def test_an_id_that_was_never_used_has_no_history(tmp_path):
    with pytest.raises(SagaNotFound):
        Sagas(tmp_path, steps=[]).history("s")
