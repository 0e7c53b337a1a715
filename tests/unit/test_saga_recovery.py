"""Recovery, by the state of the saga. A dead owner is one that released its saga without an end."""

import os
import time

import pytest
from saga_kit import Shelf, Thing, closed_journals, kinds_of, lines_of, open_journals, policy, seal

from orchestrator_core.exceptions import CouldNotAsk, SagaBusy, SagaError, SagaNotFound
from orchestrator_core.saga import Observer, Reason, Sagas, State, Unwind

ABC = ("a", "b", "c")


@pytest.fixture
def shelf():
    return Shelf()


@pytest.fixture
def sagas(tmp_path, shelf):
    return Sagas(tmp_path, steps=[Thing(shelf)])


def die_running(sagas, shelf, saga_id="s"):
    """Leave a saga as a dead owner would: all steps done, not committed."""
    saga = sagas.begin(saga_id, shelf.things(*ABC))
    saga.run()
    saga.release()


def committed(sagas, shelf, saga_id="s"):
    with sagas.begin(saga_id, shelf.things(*ABC)) as saga:
        saga.run()
        saga.commit()


def test_a_running_saga_without_an_owner_is_unwound(sagas, shelf):
    die_running(sagas, shelf)

    report = sagas.recover()

    assert (["s"], {}) == (list(report.unwound), shelf.held)
    assert Reason.RECOVERY is report.unwound["s"].why.reason


def test_a_committed_saga_is_left_alone_by_the_default_policy(sagas, shelf):
    committed(sagas, shelf)
    before = sagas.journals.file("s").read_bytes()

    with sagas.open("s"):  # The recovery does not request its lock either.
        report = sagas.recover()

    assert (("s",), {}) == (report.alive, report.unwound)
    assert before == sagas.journals.file("s").read_bytes()


def test_a_committed_saga_that_the_policy_ends_is_unwound_for_its_reason(sagas, shelf):
    committed(sagas, shelf, "dead")
    committed(sagas, Shelf(), "alive")

    over = Unwind.terminal("it is dead", status="failed")
    dead_one = policy(decide_end=lambda history: over if history.saga_id == "dead" else None)
    report = sagas.recover(policy=dead_one)

    assert (("alive",), over) == (report.alive, report.unwound["dead"].why)


def test_a_stuck_saga_waits_for_its_retry_time_unless_forced(sagas, shelf):
    committed(sagas, shelf)
    shelf.fail("undo", "b", *[OSError("stays")] * 2)
    sagas.unwind("s", Unwind.terminal())

    assert ("s",) == sagas.recover().waiting == sagas.recover().stuck
    assert sagas.recover(force=True).unwound["s"].closed
    assert {} == shelf.held


@pytest.mark.parametrize(
    "away_s", [-1, 3 * 3600], ids=["its time has come", "the clock was set back"]
)
def test_a_stuck_saga_is_retried(sagas, shelf, away_s):
    committed(sagas, shelf)
    shelf.fail("undo", "b", *[OSError("stays")] * 2)
    sagas.unwind("s", Unwind.terminal())
    journal = sagas.journals.file("s")
    whole = journal.read_bytes().splitlines(keepends=True)
    stuck = {**lines_of(journal)[-1], "retry_at": time.time() + away_s}
    del stuck["crc"]
    journal.write_bytes(b"".join(whole[:-1]) + seal(**stuck))

    assert sagas.recover().unwound["s"].closed


def test_an_interrupted_unwinding_goes_on(sagas, shelf):
    """A step that was undone is not undone again."""
    committed(sagas, shelf)
    sagas.unwind("s", Unwind.terminal("first"))
    closed = sagas.journals.closed_file("s")
    lines = closed.read_bytes().splitlines(keepends=True)
    closed.unlink()
    sagas.journals.file("s").write_bytes(b"".join(lines[: kinds(lines).index("undone") + 1]))
    shelf.calls.clear()

    report = sagas.recover().unwound["s"]

    assert (["undo b", "undo a"], "first") == (shelf.calls, report.why.message)


def kinds(lines):
    return [line.split(b'"')[3].decode() for line in lines]


def test_a_closed_saga_among_the_open_ones_is_only_archived(sagas, shelf, tmp_path):
    committed(sagas, shelf)
    sagas.unwind("s", Unwind.terminal())
    sagas.journals.closed_file("s").rename(sagas.journals.file("s"))
    shelf.calls.clear()

    sagas.recover()

    assert ([], []) == (shelf.calls, open_journals(tmp_path))
    assert ["s.jsonl"] == closed_journals(tmp_path)


def test_a_living_owner_is_not_disturbed(sagas, shelf):
    with sagas.begin("s", shelf.things(*ABC)) as saga:
        saga.run()
        assert ("s",) == sagas.recover().busy
        with pytest.raises(SagaBusy):
            sagas.unwind("s", Unwind.terminal())
        saga.commit()

    assert [] == [call for call in shelf.calls if "undo" in call]


def test_a_saga_that_cannot_be_recovered_does_not_stop_the_others(sagas, shelf):
    committed(sagas, Shelf(), "asks")
    committed(sagas, Shelf(), "bug")
    die_running(sagas, shelf, "z")

    def decide_end(history):
        raise {"asks": CouldNotAsk("hung"), "bug": ZeroDivisionError("a bug")}[history.saga_id]

    report = sagas.recover(policy=policy(decide_end=decide_end))

    assert {"asks": "could-not-ask: hung", "bug": "ZeroDivisionError: a bug"} == report.failed
    assert (["z"], {}) == (list(report.unwound), shelf.held)


def test_a_saga_that_includes_the_caller_is_left_to_another_process(sagas, shelf):
    """The unwinding would end the caller."""
    die_running(sagas, shelf, "running")
    committed(sagas, shelf, "committed")
    closed = sagas.begin("closed", shelf.things("x"))
    closed.run()
    closed.unwind(Unwind.rollback())
    sagas.journals.closed_file("closed").rename(sagas.journals.file("closed"))
    over = {"decide_end": lambda _: Unwind.terminal("over")}

    report = sagas.recover(policy=policy(includes_self=lambda _: True, **over))

    assert ({"running", "committed"}, {}) == (set(report.busy), report.unwound)
    assert ["closed"] == list(sagas.journals.closed_ids())
    assert {"running", "committed"} == set(sagas.recover(policy=policy(**over)).unwound)


def test_a_recovery_can_be_limited_to_one_saga(sagas, shelf):
    die_running(sagas, shelf, "one")
    die_running(sagas, Shelf(), "two")

    assert ["two"] == list(sagas.recover(only="two").unwound)
    with pytest.raises(SagaNotFound):
        sagas.recover(only="three")


def test_a_second_recovery_changes_nothing(sagas, shelf, tmp_path):
    die_running(sagas, shelf)
    committed(sagas, Shelf(), "t")
    sagas.recover()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    sagas.recover()

    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_a_journal_under_another_sagas_name_ends_nothing(sagas, shelf):
    """A copy made by hand is no saga, and does not lead to the resources of the original."""
    committed(sagas, shelf)
    copy = sagas.journals.file("s-copy")
    copy.write_bytes(sagas.journals.file("s").read_bytes())

    report = sagas.recover(
        policy=policy(decide_end=lambda _history: Unwind.terminal("all are dead"))
    )

    assert {"s-copy": "saga: the journal of saga 's-copy' is that of 's'"} == report.failed
    assert copy.exists()
    with pytest.raises(SagaError):
        sagas.unwind("s-copy", Unwind.terminal())


def test_a_file_with_a_hostile_name_is_reported_and_left(sagas, tmp_path):
    (tmp_path / "a b.jsonl").write_bytes(b"")

    assert ["a b"] == list(sagas.recover().failed)
    assert (tmp_path / "a b.jsonl").exists()


def test_a_torn_last_line_is_the_normal_end_of_a_crash(sagas, shelf, tmp_path):
    die_running(sagas, shelf)
    with sagas.journals.file("s").open("ab") as journal:
        journal.write(b'{"kind":"commit","at":"2026')

    report = sagas.recover()

    assert ({}, {}) == (report.damaged, shelf.held)
    assert State.CLOSED is sagas.history("s").state
    assert "commit" not in kinds_of(tmp_path / "closed" / "s.jsonl")


def test_a_commit_that_lacks_only_its_newline_counts(sagas, shelf):
    """The line is complete, and may have been acknowledged."""
    committed(sagas, shelf)
    journal = sagas.journals.file("s")
    whole = journal.read_bytes()
    for end in (b"", b"\0", b"x"):
        journal.write_bytes(whole[:-1] + end)
        assert ("s",) == sagas.recover().alive

    sagas.unwind("s", Unwind.terminal())
    assert ["commit", "unwind"] == kinds_of(sagas.journals.closed_file("s"))[7:9]


def test_damage_is_reported_to_the_observer(tmp_path, shelf):
    notified = []

    class Told(Observer):
        def journal_damaged(self, saga_id, kept):
            notified.append((saga_id, kept.name))

    sagas = Sagas(tmp_path, steps=[Thing(shelf)], observer=Told())
    committed(sagas, shelf)
    sagas.journals.file("s").write_bytes(b"")
    sagas.recover()

    assert [("s", "s.jsonl.damaged")] == notified


def test_system_calls_do_not_grow_with_the_number_of_closed_sagas(tmp_path, shelf, monkeypatch):
    """A saga makes the same calls beside one closed saga and beside five hundred."""
    sagas = Sagas(tmp_path, steps=[Thing(shelf)])

    def life(saga_id):
        committed(sagas, shelf, saga_id)
        sagas.unwind(saga_id, Unwind.terminal())
        sagas.recover()

    def cost(saga_id):
        count = 0

        def counted(real):
            def call(*args, **options):
                nonlocal count
                count += 1
                return real(*args, **options)

            return call

        with monkeypatch.context() as patch:
            for name in ("open", "read", "write", "pwrite", "fsync", "fstat", "lstat", "link",
                         "unlink", "rename", "scandir", "close", "ftruncate", "stat"):  # fmt: skip
                patch.setattr(os, name, counted(getattr(os, name)))
            life(saga_id)
        return count

    life("warm")
    few = cost("few")
    for number in range(500):
        (tmp_path / "closed" / f"old-{number}.jsonl").write_bytes(b"")
    assert few == cost("many")


@pytest.fixture
def fsyncs(monkeypatch):
    done, real = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (done.append(fd), real(fd))[1])
    return done


def test_a_saga_goes_forward_with_three_fsyncs(sagas, shelf, fsyncs):
    """One for the intents, one for the name of the journal, one for the commit."""
    for number in range(4):
        committed(sagas, shelf, f"s{number}")

    assert 3 * 4 == len(fsyncs)


def test_an_end_is_three_fsyncs(sagas, shelf, fsyncs):
    committed(sagas, shelf)
    fsyncs.clear()

    sagas.unwind("s", Unwind.terminal())

    assert 3 == len(fsyncs)
