"""Public names of the saga package that were renamed: the old ones work, and warn."""

import pytest
from saga_kit import Shelf, Thing

from orchestrator_core import saga as saga_package
from orchestrator_core.saga import Observer, Outcome, Result, Sagas, Unwind


@pytest.fixture
def shelf():
    return Shelf()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Frame", "StepState"),
        ("JournalDirectory", "JournalStore"),
        ("catalogue", "steps_by_type"),
        ("together", "combine"),
    ],
)
def test_an_old_name_of_the_package_is_the_new_object(old, new):
    with pytest.warns(DeprecationWarning, match=new):
        assert getattr(saga_package, new) is getattr(saga_package, old)


def test_an_observer_with_old_hook_names_is_called(tmp_path, shelf):
    calls = []

    with pytest.warns(DeprecationWarning, match=r"Observer\.") as seen:

        class Old(Observer):
            def to_carry(self, saga_id):
                super().to_carry(saga_id)
                return {"trace": "t"}

            def saga_taken_up(self, saga_id, labels, carried):
                super().saga_taken_up(saga_id, labels, carried)
                calls.append((saga_id, carried))

    sagas = Sagas(tmp_path, steps=[Thing(shelf)], observer=Old())
    with sagas.begin("s", shelf.things("a")) as saga:
        saga.run()
        saga.commit()

    sagas.unwind("s", Unwind.terminal("over"))

    assert [("s", {"trace": "t"})] == calls
    assert [__file__] * 2 == [each.filename for each in seen]


def test_old_attributes_of_a_saga_and_its_history_are_the_new_ones(tmp_path, shelf):
    sagas = Sagas(tmp_path, steps=[Thing(shelf)])
    with sagas.begin("s", shelf.things("a")) as saga:
        with pytest.warns(DeprecationWarning, match="add_step"):
            saga.then(Thing(shelf, "b"))
        saga.commit()
        saga.request_end(Unwind.terminal("over"))

    history = sagas.history("s")
    renamed = {"carried": "observer_state", "request": "end_request", "told": "report"}
    for old, new in renamed.items():
        with pytest.warns(DeprecationWarning, match=new):
            assert getattr(history, new) == getattr(history, old)
    with pytest.warns(DeprecationWarning, match="removes_everything"):
        assert not history.end_request.leaves_nothing


def test_an_epilogue_is_a_finalizer(tmp_path, shelf):
    reports = []
    with pytest.warns(DeprecationWarning, match="finalizer"):
        sagas = Sagas(
            tmp_path, steps=[Thing(shelf)], epilogue=lambda report, _: reports.append(report)
        )

    with sagas.begin("s", shelf.things("a")) as saga:
        saga.unwind(Unwind.rollback("never mind"))

    assert ["s"] == [report.saga_id for report in reports]


def test_a_result_of_the_old_name_is_the_new_one():
    assert Result.KEPT_FOREIGN is Result.LEFT is Outcome.left().result


def test_the_callables_of_a_recovery_are_a_policy(tmp_path, shelf):
    sagas = Sagas(tmp_path, steps=[Thing(shelf)])
    with sagas.begin("s", shelf.things("a")) as saga:
        saga.run()
        saga.commit()

    over = Unwind.terminal("over")
    with pytest.warns(DeprecationWarning, match="policy="):
        spared = sagas.recover(verdict=lambda _: over, spared=lambda _: True)
    with pytest.warns(DeprecationWarning, match="policy="):
        ended = sagas.recover(verdict=lambda _: over)

    assert (("s",), over) == (spared.busy, ended.unwound["s"].why)
