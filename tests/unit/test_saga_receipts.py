"""Receipts outlive the code that wrote them: types, versions, upgrades."""

import attrs
import pytest
from saga_kit import Shelf, Thing, ThingReceipt, seal

from orchestrator_core.exceptions import UnknownStep
from orchestrator_core.saga import Outcome, Sagas, State, StepState, Unwind, receipt


def frame(kind, version, value):
    return StepState("it", kind, version, value)


def test_an_old_receipt_is_upgraded_step_by_step():
    """The third release reads a journal of the first."""

    @receipt(
        "test.chain",
        version=3,
        upgrades={
            1: lambda old: {"place": old["dir"]},
            2: lambda old: {**old, "mode": 0o700},
        },
    )
    class Chain:
        place: str
        mode: int

    assert Chain("/x", 0o700) == frame("test.chain", 1, {"dir": "/x"}).load()
    assert Chain("/x", 0o700) == frame("test.chain", 2, {"place": "/x"}).load()
    assert Chain("/x", 1) == frame("test.chain", 3, {"place": "/x", "mode": 1}).load()


def test_a_missing_upgrade_is_refused():
    with pytest.raises(ValueError, match="needs an upgrade from each version"):
        receipt("test.gap", version=3, upgrades={1: dict})


def test_a_name_belongs_to_one_class():
    @receipt("test.mine")
    class One:
        pass

    with pytest.raises(ValueError, match=r"is registered for .*One"):

        @receipt("test.mine")
        class Two:
            pass


def test_an_attrs_class_is_registered_unchanged():
    @receipt("test.attrs")
    @attrs.frozen(kw_only=True)
    class Own:
        path: str

    @receipt("test.below")
    class Below(Own):
        more: str = "x"

    assert Own(path="p") == frame("test.attrs", 1, {"path": "p"}).load()
    assert "y" == frame("test.below", 1, {"path": "p", "more": "y"}).load().more


def test_a_receipt_of_an_unregistered_class_is_refused_before_any_step(tmp_path):
    class Plain(Thing):
        def plan(self, _ctx):
            return object()

    shelf = Shelf()
    with pytest.raises(TypeError, match="not registered"):
        Sagas(tmp_path, steps=[]).begin("s", [Plain(shelf)])


@pytest.mark.parametrize(
    ("kind", "version", "value"),
    [
        ("test.nobody", 1, {}),
        ("kit.thing", 2, {"name": "a", "owner": "s"}),
        ("kit.thing", 1, {"name": "a"}),
        ("kit.thing", 1, {"name": 3, "owner": "s"}),
    ],
    ids=["unknown type", "newer version", "a field less", "another shape"],
)
def test_an_unknown_receipt_makes_its_saga_stuck(tmp_path, kind, version, value):
    """A saga of a newer release waits for that release; its known steps are undone."""
    shelf = Shelf(held={"known": "s"})
    sagas = Sagas(tmp_path, steps=[Thing(shelf)])
    known = {"name": "known", "owner": "s"}
    (tmp_path / "s.jsonl").write_bytes(
        seal(kind="begin", saga="s", labels={}, steps=["known", "odd"], at="")
        + seal(kind="intent", step="known", type="kit.thing", version=1, receipt=known, at="")
        + seal(kind="intent", step="odd", type=kind, version=version, receipt=value, at="")
    )
    with pytest.raises(UnknownStep):
        frame(kind, version, value).load()

    report = sagas.recover().unwound["s"]

    assert ({}, ["odd"]) == (shelf.held, [step.step for step in report.failed])
    assert State.STUCK is sagas.history("s").state


def test_lines_of_a_newer_release_are_skipped(tmp_path):
    sagas = Sagas(tmp_path, steps=[])
    (tmp_path / "s.jsonl").write_bytes(
        seal(kind="begin", saga="s", labels={}, steps=[], at="")
        + seal(kind="telepathy", of="a newer release", at="")
        + seal(kind="commit", at="")
    )

    assert State.COMMITTED is sagas.history("s").state
    assert sagas.unwind("s", Unwind.terminal()).closed


def test_a_receipt_reads_back_as_it_was():
    thing = ThingReceipt(name="a", owner="s", serial=3)

    assert thing == frame("kit.thing", 1, attrs.asdict(thing)).load()
    assert Outcome.undone(a=1) == Outcome.undone(a=1)
