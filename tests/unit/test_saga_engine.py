"""A saga: run, commit, unwind. The resources are on a shelf in memory, the journal is on disk."""

import errno
import json
import signal
import traceback
from datetime import datetime
from pathlib import Path

import attrs
import pytest
from saga_kit import Shelf, Thing, closed_journals, kinds_of, lines_of, open_journals

from orchestrator_core.exceptions import (
    CouldNotAsk,
    InvalidId,
    OrchestratorError,
    SagaError,
    SagaExists,
    SagaNotFound,
    UndoFailed,
)
from orchestrator_core.saga import (
    TRANSITIONS,
    Observer,
    Outcome,
    Presence,
    Reason,
    Sagas,
    State,
    Unwind,
    combine,
    journal,
)

ABC = ("a", "b", "c")


@pytest.fixture
def shelf():
    return Shelf()


@pytest.fixture
def sagas(tmp_path, shelf):
    return Sagas(tmp_path / "sagas", steps=[Thing(shelf)])


def committed(sagas, shelf, saga_id="s", names=ABC):
    with sagas.begin(saga_id, shelf.things(*names)) as saga:
        saga.run()
        saga.commit()


# --- all --------------------------------------------------------------------------------------


def test_a_committed_saga_holds_all_resources_and_keeps_its_stack(sagas, shelf):
    """After the commit no process is needed to hold the resources, and all can be undone."""
    committed(sagas, shelf)

    assert {"a": "s", "b": "s", "c": "s"} == shelf.held
    assert State.COMMITTED is sagas.history("s").state
    assert list(ABC) == [frame.name for frame in sagas.history("s").stack]


def test_intents_are_in_the_journal_before_any_resource_is_taken(sagas, shelf, tmp_path):
    """A record leads to the resource before the step acts."""
    with sagas.begin("s", shelf.things(*ABC)) as saga:
        assert ["begin", "intent", "intent", "intent"] == kinds_of(tmp_path / "sagas" / "s.jsonl")
        assert [] == shelf.calls
        saga.run()
        saga.commit()


def test_a_receipt_that_a_step_enriches_reaches_its_undo(sagas, shelf):
    """A fact that only ``do`` knows reaches the undo, also in another process."""
    committed(sagas, shelf)

    report = sagas.unwind("s", Unwind.terminal())

    assert [{"serial": 3}, {"serial": 2}, {"serial": 1}] == [s.detail for s in report.steps]


def test_a_step_can_be_added_after_others_are_done(sagas, shelf):
    """The new step is planned with the current receipts of the others."""

    class Late(Thing):
        def plan(self, ctx):
            return attrs.evolve(super().plan(ctx), serial=ctx.receipts["a"].serial + 40)

    with sagas.begin("s", shelf.things("a")) as saga:
        saga.run()
        saga.add_step(Late(shelf, "late"))
        saga.commit()

    assert ["a", "late"] == list(shelf.held)
    assert [("late", {"serial": 2}), ("a", {"serial": 1})] == [
        (step.step, step.detail) for step in sagas.unwind("s", Unwind.terminal()).steps
    ]


def test_the_last_note_of_a_name_counts(sagas, shelf):
    committed(sagas, shelf)
    with sagas.open("s") as saga:
        saga.note("seen", times=1)
        saga.note("seen", times=2)

    assert {"seen": {"times": 2}} == sagas.history("s").notes


# --- nothing ----------------------------------------------------------------------------------


@pytest.mark.parametrize("broken", ABC)
@pytest.mark.parametrize(
    "error", [ValueError("no"), KeyboardInterrupt(), SystemExit(3), GeneratorExit()], ids=repr
)
def test_any_exception_unwinds_in_reverse_and_reaches_the_caller(sagas, shelf, broken, error):
    """No resource remains, and the caller gets the error of the step."""
    shelf.fail("do", broken, error)

    with pytest.raises(type(error)) as raised, sagas.begin("s", shelf.things(*ABC)) as saga:
        saga.run()

    assert error is raised.value
    assert error.__cause__ is None
    assert {} == shelf.held
    assert ["undo c", "undo b", "undo a"] == [call for call in shelf.calls if "undo" in call]
    assert State.CLOSED is sagas.history("s").state


def test_an_exception_between_the_steps_and_the_commit_unwinds(sagas, shelf):
    def fails_late():
        with sagas.begin("s", shelf.things(*ABC)) as saga:
            saga.run()
            1 / 0  # noqa: B018 - it is there to raise

    with pytest.raises(ZeroDivisionError):
        fails_late()

    assert {} == shelf.held
    assert Reason.ROLLBACK is sagas.report("s").why.reason


def test_a_block_left_without_a_commit_unwinds(sagas, shelf):
    """A caller that forgets the commit, or returns early, holds no resource."""
    with sagas.begin("s", shelf.things(*ABC)) as saga:
        saga.run()

    assert {} == shelf.held
    assert "the block ended without a commit" == sagas.report("s").why.message


def test_a_block_left_without_a_commit_raises_the_failed_undos(sagas, shelf):
    shelf.fail("undo", "b", OSError("stuck"), OSError("stuck"))

    with pytest.raises(ExceptionGroup) as raised, sagas.begin("s", shelf.things(*ABC)) as saga:
        saga.run()

    assert ["b"] == [error.step for error in raised.value.exceptions]


def test_a_step_that_refuses_its_plan_leaves_nothing(sagas, shelf, tmp_path):
    class Refusing(Thing):
        def plan(self, ctx):
            raise ValueError(ctx.saga_id)

    with pytest.raises(ValueError, match="s"):
        sagas.begin("s", [*shelf.things("a"), Refusing(shelf, "b")])

    assert ([], []) == (shelf.calls, open_journals(tmp_path / "sagas"))


# --- undos that fail --------------------------------------------------------------------------


def test_a_failing_undo_does_not_stop_the_others_and_is_retried_once(sagas, shelf):
    committed(sagas, shelf)
    shelf.fail("undo", "b", OSError("not yet"))
    shelf.calls.clear()

    report = sagas.unwind("s", Unwind.terminal())

    assert ["undo c", "undo b", "undo a", "undo b"] == shelf.calls
    assert (True, 2) == (report.closed, report.step("b").attempts)


def test_a_resource_that_could_not_be_asked_is_not_asked_again_at_once(sagas, shelf):
    committed(sagas, shelf)
    shelf.fail("undo", "b", CouldNotAsk("hung"))
    shelf.calls.clear()

    report = sagas.unwind("s", Unwind.terminal())

    assert ["undo c", "undo b", "undo a"] == shelf.calls
    assert ["b"] == [step.step for step in report.failed]


def test_failed_undos_are_the_cause_of_the_original_error(sagas, shelf):
    """The cause names every step that may still hold a resource."""
    shelf.fail("do", "c", ValueError("the reason"))
    for name in ("a", "b"):
        shelf.fail("undo", name, OSError("stays"), OSError("stays"))

    with pytest.raises(ValueError, match="the reason") as raised:  # noqa: SIM117 - two separate checks
        with sagas.begin("s", shelf.things(*ABC)) as saga:
            saga.run()

    group = raised.value.__cause__
    assert isinstance(group, ExceptionGroup)
    assert [UndoFailed, UndoFailed] == [type(error) for error in group.exceptions]
    assert [("b",), ("a",)] == [error.leaked for error in group.exceptions]
    assert "OSError: stays" in "".join(traceback.format_exception(raised.value))


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt(), SystemExit(1)], ids=repr)
def test_an_interrupt_during_an_undo_waits_until_the_end(sagas, shelf, interrupt):
    """Ctrl-C leaves no saga half unwound; the interrupt is raised afterwards."""
    committed(sagas, shelf)
    shelf.fail("undo", "b", interrupt)

    with pytest.raises(type(interrupt)) as raised:
        sagas.unwind("s", Unwind.terminal())

    assert interrupt is raised.value
    assert {} == shelf.held
    assert State.CLOSED is sagas.history("s").state


def test_a_real_ctrl_c_during_an_undo_waits_until_the_end(sagas, shelf):
    class Interrupted(Thing):
        def undo(self, receipt, why):
            outcome = super().undo(receipt, why)
            if receipt.name == "b" and outcome == Outcome.undone(serial=2):
                signal.raise_signal(signal.SIGINT)
            return outcome

    committed(sagas, shelf)
    sagas.steps["kit.thing"] = Interrupted(shelf)

    with pytest.raises(KeyboardInterrupt):
        sagas.unwind("s", Unwind.terminal())

    assert {} == shelf.held
    assert "absent" == sagas.report("s").step("b").result  # The second undo finds nothing.


def test_the_first_of_two_interrupts_is_raised_with_the_failed_undos(sagas, shelf):
    first, second = KeyboardInterrupt("first"), SystemExit("second")
    shelf.fail("undo", "b", first, second)

    with pytest.raises(KeyboardInterrupt) as raised, sagas.begin("s", shelf.things(*ABC)) as saga:
        saga.run()

    assert first is raised.value
    assert ["b"] == [error.step for error in raised.value.__cause__.exceptions]
    assert {"b": "s"} == shelf.held


def test_an_undo_that_is_interrupted_twice_is_no_failure(sagas, shelf):
    """The saga is not STUCK, and no user is notified: the next unwinding goes on at once."""
    committed(sagas, shelf)
    shelf.fail("undo", "b", KeyboardInterrupt("first"), KeyboardInterrupt("second"))

    with pytest.raises(KeyboardInterrupt, match="first"):
        sagas.unwind("s", Unwind.terminal("why it ended"))

    assert ({"b": "s"}, State.UNWINDING) == (shelf.held, sagas.history("s").state)
    assert sagas.recover().unwound["s"].closed
    assert ({}, "why it ended") == (shelf.held, sagas.report("s").why.message)


def test_a_failed_undo_beside_an_interrupted_one_is_stuck(sagas, shelf):
    committed(sagas, shelf)
    shelf.fail("undo", "b", KeyboardInterrupt(), KeyboardInterrupt())
    shelf.fail("undo", "a", OSError("stays"), OSError("stays"))

    with pytest.raises(KeyboardInterrupt):
        sagas.unwind("s", Unwind.terminal())

    assert State.STUCK is sagas.history("s").state


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize(("times", "state"), [(1, State.CLOSED), (2, State.UNWINDING)])
def test_an_interrupt_of_the_finalizer_is_no_failure(tmp_path, shelf, interrupt, times, state):
    calls = []

    def finalizer(_report, _history):
        calls.append("called")
        if len(calls) <= times:
            raise interrupt

    sagas = Sagas(tmp_path / "sagas", steps=[Thing(shelf)], finalizer=finalizer)
    committed(sagas, shelf)

    with pytest.raises(interrupt):
        sagas.unwind("s", Unwind.terminal())

    assert state is sagas.history("s").state
    sagas.recover()
    report = sagas.report("s")
    assert (True, [], times + 1) == (report.closed, list(report.failed), len(calls))


def test_an_undo_that_returns_nonsense_has_failed(sagas, shelf):
    class Careless(Thing):
        def undo(self, _receipt, _why):
            return None

    committed(sagas, shelf)
    sagas.steps["kit.thing"] = Careless(shelf)

    report = sagas.unwind("s", Unwind.terminal())

    assert (False, 3) == (report.closed, len(report.failed))


def test_a_foreign_resource_is_left_alone_and_the_saga_closes(sagas, shelf):
    committed(sagas, shelf)
    shelf.held["b"] = "a stranger"

    report = sagas.unwind("s", Unwind.terminal())

    assert {"b": "a stranger"} == shelf.held
    assert (True, "left") == (report.closed, report.step("b").result)


# --- stuck ------------------------------------------------------------------------------------


@pytest.fixture
def stuck(sagas, shelf):
    """A saga whose step b was not undone."""
    committed(sagas, shelf)
    shelf.fail("undo", "b", *[OSError("stays")] * 2)
    sagas.unwind("s", Unwind.terminal("why it ended"))
    shelf.calls.clear()


@pytest.mark.usefixtures("stuck")
def test_a_saga_with_an_undo_that_stays_failed_is_stuck(sagas, shelf):
    history = sagas.history("s")

    assert State.STUCK is history.state
    assert {"b": "OSError: stays"} == history.failures
    assert {"b": "s"} == shelf.held


@pytest.mark.usefixtures("stuck")
def test_only_failed_undos_are_repeated_and_for_the_first_reason(sagas, shelf):
    report = sagas.unwind("s", Unwind.rollback("another reason"))

    assert ["undo b"] == shelf.calls
    assert "why it ended" == report.why.message
    assert [("c", 0), ("b", 1), ("a", 0)] == [(s.step, s.attempts) for s in report.steps]
    assert State.CLOSED is sagas.history("s").state


@pytest.mark.usefixtures("stuck")
def test_the_wait_before_a_retry_doubles_up_to_an_hour(sagas, shelf):
    """A saga that stays stuck is retried about once an hour."""
    shelf.failing["undo", "b"] = [OSError("stays")] * 100
    waits = []
    for _ in range(15):
        report = sagas.unwind("s", Unwind.terminal())
        began = lines_of(sagas.journals.file("s"))[-1]
        waits.append(report.retry_at - _seconds(began["at"]))

    assert [2, 4, 8, 16] == [round(wait) for wait in waits[:4]]
    assert {4096} == {round(wait) for wait in waits[11:]}


def _seconds(at):
    return datetime.fromisoformat(at).timestamp()


@pytest.mark.usefixtures("stuck")
def test_a_step_can_be_abandoned_by_name_and_the_journal_keeps_the_operator(sagas, shelf):
    with sagas.open("s") as saga:
        saga.abandon("b", by="ann", reason="the host is gone")
        report = saga.unwind(Unwind.terminal())

    assert (True, "abandoned") == (report.closed, report.step("b").result)
    assert {"by": "ann", "reason": "the host is gone"} == sagas.report("s").step("b").detail
    assert [] == shelf.calls


@pytest.mark.parametrize("step", ["a", "nonesuch"])
@pytest.mark.usefixtures("stuck")
def test_only_a_stuck_step_can_be_abandoned(sagas, step):
    with sagas.open("s") as saga, pytest.raises(SagaError, match="not stuck by"):
        saga.abandon(step, by="ann", reason="")


def test_a_saga_that_is_not_stuck_has_nothing_to_abandon(sagas, shelf):
    committed(sagas, shelf)
    with sagas.open("s") as saga, pytest.raises(SagaError, match="committed, not stuck"):
        saga.abandon("a", by="ann", reason="")


def test_a_report_of_a_failed_undo_is_json_whatever_it_leaked(sagas, shelf):
    """A path is no JSON value; the report contains its text."""
    committed(sagas, shelf)
    error = OSError("in use")
    error.leaked = [Path("/left")]
    error.undo_detail = {"at": Path("/there")}
    shelf.fail("undo", "b", error, error)

    outcome = sagas.unwind("s", Unwind.terminal()).to_dict()

    [detail] = [step["detail"] for step in outcome["steps"] if step["result"] == "failed"]
    assert {"at": "/there", "leaked": ["/left"]} == detail


def test_a_finalizer_that_fails_makes_the_saga_stuck_and_runs_again(tmp_path, shelf):
    seen, errors = [], [OSError("later")]

    def finalizer(report, history):
        assert "s" == history.saga_id == report.saga_id
        seen.append([step.result for step in report.steps])
        if errors:
            raise errors.pop()

    sagas = Sagas(tmp_path / "sagas", steps=[Thing(shelf)], finalizer=finalizer)
    committed(sagas, shelf)

    first = sagas.unwind("s", Unwind.terminal())
    second = sagas.unwind("s", Unwind.terminal())

    assert (["epilogue"], True) == ([step.step for step in first.failed], second.closed)
    assert [["undone"] * 3] * 2 == seen


def test_a_finalizer_that_always_fails_can_be_abandoned(tmp_path, shelf):
    def finalizer(_report, _history):
        raise OSError("never")

    sagas = Sagas(tmp_path / "sagas", steps=[Thing(shelf)], finalizer=finalizer)
    committed(sagas, shelf)
    assert not sagas.unwind("s", Unwind.terminal()).closed
    with sagas.open("s") as saga:
        saga.abandon("epilogue", by="ann", reason="the record is gone")

    assert sagas.unwind("s", Unwind.terminal()).closed

    outcome = sagas.report("s").step("epilogue")
    assert ("abandoned", {"by": "ann", "reason": "the record is gone"}) == (
        outcome.result,
        outcome.detail,
    )


@pytest.mark.usefixtures("stuck")
def test_a_finalizer_cannot_be_abandoned_while_a_step_is_stuck(sagas):
    with sagas.open("s") as saga, pytest.raises(SagaError, match="not stuck by"):
        saga.abandon("epilogue", by="ann", reason="")


# --- one end ----------------------------------------------------------------------------------


def test_a_second_end_gets_the_report_of_the_first(sagas, shelf):
    committed(sagas, shelf)
    first = sagas.unwind("s", Unwind.terminal("first"))
    shelf.calls.clear()

    second = sagas.unwind("s", Unwind.terminal("second"))

    assert (first, []) == (second, shelf.calls)


def test_the_first_request_of_an_end_wins(sagas, shelf):
    committed(sagas, shelf)
    with sagas.open("s") as saga:
        assert [True, False] == [saga.request_end(Unwind.terminal(w)) for w in ("one", "two")]

    assert "one" == sagas.history("s").end_request.message
    assert State.COMMITTED is sagas.history("s").state


@pytest.mark.usefixtures("stuck")
def test_an_end_cannot_be_requested_during_an_unwinding(sagas):
    with sagas.open("s") as saga:
        saga.unwind(Unwind.terminal())
        assert not saga.request_end(Unwind.terminal())


# --- refused ----------------------------------------------------------------------------------


def test_an_id_is_used_once(sagas, shelf):
    committed(sagas, shelf)
    with pytest.raises(SagaExists):
        sagas.begin("s", shelf.things("x"))
    sagas.unwind("s", Unwind.terminal())
    with pytest.raises(SagaExists):
        sagas.begin("s", shelf.things("x"))


@pytest.mark.parametrize("saga_id", ["", "../x", "a/b", "a\0b", ".spare", "a.b", "é", "x" * 101])
def test_a_hostile_id_reaches_no_file(sagas, shelf, saga_id, tmp_path):
    for ask in (
        lambda: sagas.begin(saga_id, shelf.things("a")),
        lambda: sagas.open(saga_id),
        lambda: sagas.history(saga_id),
        lambda: sagas.unwind(saga_id, Unwind.terminal()),
    ):
        with pytest.raises(InvalidId):
            ask()
    assert [] == open_journals(tmp_path / "sagas")


def test_two_steps_with_the_same_name_are_refused(sagas, shelf):
    with pytest.raises(SagaError, match="two steps named 'a'"):
        sagas.begin("s", shelf.things("a", "a"))


def test_a_saga_that_never_existed_has_no_history(sagas):
    for ask in (sagas.history, sagas.open, sagas.report):
        with pytest.raises(SagaNotFound):
            ask("nobody")
    with pytest.raises(SagaNotFound):
        sagas.unwind("nobody", Unwind.terminal())


@pytest.mark.parametrize(
    "forward",
    [
        lambda saga, _shelf: saga.run(),
        lambda saga, _shelf: saga.commit(),
        lambda saga, shelf: saga.add_step(Thing(shelf, "more")),
    ],
    ids=["run", "commit", "then"],
)
def test_only_a_running_saga_goes_forward_and_a_refusal_writes_no_line(sagas, shelf, forward):
    committed(sagas, shelf)
    before = kinds_of(sagas.journals.file("s"))
    with sagas.open("s") as saga, pytest.raises(SagaError, match="committed, not running"):
        forward(saga, shelf)

    assert before == kinds_of(sagas.journals.file("s"))


def test_a_saga_does_not_commit_with_a_step_undone(sagas, shelf):
    with pytest.raises(SagaError, match="not done"), sagas.begin("s", shelf.things(*ABC)) as saga:
        saga.commit()

    assert "closed" == sagas.history("s").state.value


def test_a_released_saga_is_not_written_to(sagas, shelf):
    with sagas.begin("s", shelf.things("a")) as saga:
        saga.run()
        saga.commit()
    with pytest.raises(OrchestratorError, match="not owned by this process"):
        saga.note("late")


def test_a_probe_asks_every_step_and_may_return_unknown(sagas, shelf):
    class Hung(Thing):
        def probe(self, receipt):
            if receipt.name == "c":
                raise CouldNotAsk("hung")
            return super().probe(receipt)

    committed(sagas, shelf)
    shelf.held |= {"b": "a stranger"}
    del shelf.held["a"]
    sagas.steps["kit.thing"] = Hung(shelf)

    with sagas.open("s") as saga:
        assert {
            "a": Presence.ABSENT,
            "b": Presence.FOREIGN,
            "c": Presence.UNKNOWN,
        } == saga.probe()


# --- the table --------------------------------------------------------------------------------


@pytest.mark.parametrize("now", State)
@pytest.mark.parametrize("then", State)
def test_a_state_follows_another_only_as_in_the_picture(now, then):
    """The picture in states.py, copied by hand."""
    picture = {
        (State.RUNNING, State.COMMITTED),
        (State.RUNNING, State.UNWINDING),
        (State.COMMITTED, State.UNWINDING),
        (State.UNWINDING, State.STUCK),
        (State.UNWINDING, State.CLOSED),
        (State.STUCK, State.UNWINDING),
    }

    assert ((now, then) in picture) == (then in TRANSITIONS[now])
    assert set(State) == set(TRANSITIONS)


# --- watching ---------------------------------------------------------------------------------


class Diary(Observer):
    def __init__(self):
        self.lines = []

    def __getattribute__(self, name):
        if name.startswith("_") or name == "lines":
            return super().__getattribute__(name)
        return lambda saga_id, *facts: self.lines.append((name, saga_id, *facts))


def test_an_observer_gets_all_events_in_order(tmp_path, shelf):
    diary = Diary()
    sagas = Sagas(tmp_path / "sagas", steps=[Thing(shelf)], observer=diary)
    shelf.fail("undo", "a", OSError("once"))
    committed(sagas, shelf, names=("a",))
    sagas.unwind("s", Unwind.terminal())

    assert [
        "saga_begun", "state_to_persist", "step_done", "saga_committed",
        "saga_resumed", "unwinding_begun", "undo_failed", "step_undone", "saga_closed",
    ] == [line[0] for line in diary.lines]  # fmt: skip


def test_an_observer_that_raises_changes_nothing(tmp_path, shelf, caplog):
    class Broken(Observer):
        def step_done(self, *_facts):
            raise ValueError("of the observer")

    sagas = Sagas(tmp_path / "sagas", steps=[Thing(shelf)], observer=Broken())
    committed(sagas, shelf, names=("a",))

    assert State.COMMITTED is sagas.history("s").state
    assert "ValueError: of the observer" in caplog.text
    assert [("observer.failed", "step_done")] == [(r.message, r.hook) for r in caplog.records]


def test_the_state_of_an_observer_reaches_the_observer_of_the_end(tmp_path, shelf):
    class Sender(Observer):
        def state_to_persist(self, saga_id):
            return {"for": saga_id}

    class Receiver(Observer):
        def saga_resumed(self, *facts):
            self.facts = facts

    sagas = Sagas(tmp_path / "sagas", steps=[Thing(shelf)], observer=combine(Sender(), Observer()))
    with sagas.begin("s", shelf.things("a"), labels={"kind": "x"}) as saga:
        saga.run()
        saga.commit()
    receiver = Receiver()
    Sagas(tmp_path / "sagas", steps=[Thing(shelf)], observer=receiver).unwind(
        "s", Unwind.terminal()
    )

    assert ("s", {"kind": "x"}, {"for": "s"}) == receiver.facts


@pytest.mark.parametrize("carried", [{"a": object()}, {"a": "\ud800"}, ["no", "mapping"], 7])
def test_state_that_no_journal_can_hold_changes_nothing(carried, tmp_path, shelf, caplog):
    class Careless(Observer):
        def state_to_persist(self, _saga_id):
            return carried

    sagas = Sagas(tmp_path / "sagas", steps=[Thing(shelf)], observer=Careless())
    committed(sagas, shelf)

    assert (State.COMMITTED, {}) == (sagas.history("s").state, sagas.history("s").notes)
    assert [("observer.failed", "state_to_persist")] == [
        (r.message, r.hook) for r in caplog.records
    ]


def test_a_full_disk_does_not_stop_a_begin_because_of_observer_state(tmp_path, shelf, monkeypatch):
    class Sender(Observer):
        def state_to_persist(self, _saga_id):
            monkeypatch.setattr(journal, "write_all", full)
            return {"a": 1}

    def full(*_given, **_how):
        monkeypatch.undo()
        raise OSError(errno.ENOSPC, "full")

    sagas = Sagas(tmp_path / "sagas", steps=[Thing(shelf)], observer=Sender())
    committed(sagas, shelf)

    assert (State.COMMITTED, {"carried": {"a": 1}}) == (
        sagas.history("s").state,
        sagas.history("s").notes,
    )


# --- the file ---------------------------------------------------------------------------------


def test_every_line_is_json_with_its_kind_first_and_its_checksum_last(sagas, shelf, tmp_path):
    """The tools of users and the supervisor's gate depend on it."""
    committed(sagas, shelf)
    with sagas.open("s") as saga:
        saga.request_end(Unwind.terminal())
        saga.note("settled", durable=True)
    sagas.unwind("s", Unwind.terminal())

    [name] = closed_journals(tmp_path / "sagas")
    raw = (tmp_path / "sagas" / "closed" / name).read_bytes()
    lines = raw.splitlines()
    assert raw.endswith(b"\n")
    assert all(
        line.startswith(b'{"kind":"%s"' % json.loads(line)["kind"].encode()) for line in lines
    )
    assert all(line[-18:-10] == b',"crc":"' and line.endswith(b'"}') for line in lines)
    assert len(lines) == len(lines_of(tmp_path / "sagas" / "closed" / name))
    assert [
        "begin", "intent", "intent", "intent", "done", "done", "done", "commit",
        "request", "note", "unwind", "undone", "undone", "undone", "close",
    ] == [json.loads(line)["kind"] for line in lines]  # fmt: skip


def test_journals_are_for_their_owner_only(sagas, shelf, tmp_path):
    committed(sagas, shelf)

    assert {0o600} == {
        p.stat().st_mode & 0o777 for p in (tmp_path / "sagas").iterdir() if p.is_file()
    }
    assert 0o700 == (tmp_path / "sagas").stat().st_mode & 0o777


def test_a_failed_undo_passes_on_what_it_has_found_and_changes_nothing_that_was_known(sagas, shelf):
    """The journal keeps it for the next undo, in whichever process."""
    committed(sagas, shelf, names=("a",))
    error = CouldNotAsk("not now")
    error.remember = {"serial": 7, "name": "another"}
    shelf.fail("undo", "a", error)
    with sagas.open("s") as saga:
        [known] = [frame.receipt for frame in saga.history.stack]
        assert not saga.unwind(Unwind.terminal("its time")).closed

    with sagas.open("s") as saga:
        [frame] = saga.history.stack
        assert {**known, "serial": known["serial"] or 7} == frame.receipt
        assert saga.unwind(Unwind.terminal("its time")).closed
