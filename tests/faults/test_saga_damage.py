"""
Damage to a journal at every byte: cut, flipped or zeroed; or another file in its place.

A journal that a crash can leave is recovered as after a crash. Any other is quarantined once,
and rebuilt; no committed saga is ended unless the policy allows it.
"""

import os
import shutil

import pytest
from saga_kit import (
    NAMES,
    FileReceipt,
    OnDisk,
    kinds_of,
    on_disk,
    open_journals,
    policy,
    snapshot,
    stands,
)

from orchestrator_core.exceptions import SagaBusy
from orchestrator_core.saga import Sagas, Unwind

OVER = Unwind.terminal("its life is over")


@pytest.fixture(autouse=True)
def _without_waiting_for_the_disk(monkeypatch):
    """Without fsync: the test runs thousands of recoveries, and the power does not fail."""
    monkeypatch.setattr(os, "fsync", lambda _fd: None)


@pytest.fixture
def sagas(memory_tmp):
    return Sagas(memory_tmp / "sagas", steps=[OnDisk()])


@pytest.fixture
def committed(sagas, memory_tmp):
    """The journal of a committed saga."""
    with sagas.begin("s", on_disk(), values={"place": str(memory_tmp)}) as saga:
        saga.run()
        saga.commit()
    return sagas.journals.file("s")


def leads_on(place):
    """Return a policy that derives all receipts of a saga from its id."""
    return policy(
        derive_receipts=lambda saga_id, _labels: {
            name: FileReceipt(path=f"{place}/{saga_id}.{name}", owner=saga_id) for name in NAMES
        }
    )


def files_of(place):
    return [name for name in NAMES if (place / f"s.{name}").exists()]


def quarantined(sagas):
    return sorted(path.name for path in sagas.journals.path.glob("*damaged*"))


def renewed(sagas, journal, data):
    """Restore the files after the commit, with *data* as the journal."""
    shutil.rmtree(sagas.journals.path)
    place = sagas.journals.path.parent
    for name in NAMES:
        (place / f"s.{name}").write_text("s")
    renewed = Sagas(sagas.journals.path, steps=[OnDisk()])
    journal.write_bytes(data)
    return renewed


def test_a_journal_cut_at_any_byte_is_all_or_nothing(sagas, committed, memory_tmp):
    """A cut in the first lines is damage; a later cut is the normal end of a crash."""
    whole = committed.read_bytes()
    birth = whole.index(b'{"kind":"done"')
    for length in range(len(whole)):
        world = renewed(sagas, committed, whole[:length])

        report = world.recover(policy=leads_on(memory_tmp))

        stand = stands(world.journals.path, "s")
        if length < birth - 1:
            assert ("committed", ["s"], ["s.jsonl.damaged"]) == (
                stand, list(report.damaged), quarantined(world),
            )  # fmt: skip
        elif length < len(whole) - 1:
            assert ("closed", []) == (stand, quarantined(world))
        assert (list(NAMES) if report.alive else []) == files_of(memory_tmp)
        before = snapshot(memory_tmp)
        world.recover(policy=leads_on(memory_tmp))
        assert before == snapshot(memory_tmp)


def test_a_flipped_bit_ends_nothing_and_a_policy_still_can(sagas, committed, memory_tmp):
    whole = committed.read_bytes()
    for at in range(len(whole)):
        flipped = bytearray(whole)
        flipped[at] ^= 1 << (at % 8)
        world = renewed(sagas, committed, bytes(flipped))

        report = world.recover(policy=leads_on(memory_tmp))

        assert (("s",), list(NAMES)) == (report.alive, files_of(memory_tmp)), at
        if at < len(whole) - 1:  # Without its newline the last line is whole enough.
            assert (["s"], ["s.jsonl.damaged"]) == (list(report.damaged), quarantined(world)), at
            assert bytes(flipped) == (world.journals.path / "s.jsonl.damaged").read_bytes()
        assert {} == world.recover(policy=leads_on(memory_tmp)).damaged
        assert world.recover(policy=policy(decide_end=lambda _history: OVER)).unwound["s"].closed
        assert [] == files_of(memory_tmp)


@pytest.mark.parametrize("block", [16, 64, 512])
def test_zeroed_blocks_end_nothing(sagas, committed, memory_tmp, block):
    """A zeroed tail is the exception: a crash may leave it, without the commit."""
    whole = committed.read_bytes()
    for start in range(0, len(whole) - block, block):
        zeroed = whole[:start] + bytes(block) + whole[start + block :]
        world = renewed(sagas, committed, zeroed)

        report = world.recover(policy=leads_on(memory_tmp))

        torn_tail = b"\n" not in zeroed[start + block :]
        assert torn_tail or (("s",), ["s"]) == (report.alive, list(report.damaged)), start
        assert (list(NAMES) if report.alive else []) == files_of(memory_tmp)


def empty(journal):
    journal.write_bytes(b"")


def directory(journal):
    journal.unlink()
    journal.mkdir()
    (journal / "file").write_text("in the way")


def symlink(journal):
    target = journal.with_name("elsewhere")
    journal.rename(target)
    journal.symlink_to(target)


def fifo(journal):
    journal.unlink()
    os.mkfifo(journal)


def noise(journal):
    journal.write_bytes(bytes(range(256)) * 20)


def twice(journal):
    journal.write_bytes(journal.read_bytes() * 2)


def contradiction(journal):
    """Every line is undamaged, but there are two commits."""
    whole = journal.read_bytes()
    journal.write_bytes(whole + whole[whole.rindex(b'{"kind":"commit"') :])


@pytest.mark.parametrize("damage", [empty, directory, symlink, fifo, noise, twice, contradiction])
def test_a_replaced_journal_is_quarantined_once_and_the_saga_lives_on(
    sagas, committed, memory_tmp, damage
):
    damage(committed)

    first = sagas.recover(policy=leads_on(memory_tmp))
    second = sagas.recover(policy=leads_on(memory_tmp))

    assert ((["s"], ("s",)), ([], ("s",))) == (
        (list(first.damaged), first.alive), (list(second.damaged), second.alive),
    )  # fmt: skip
    assert (["s.jsonl.damaged"], ["s.jsonl"]) == (
        quarantined(sagas), open_journals(sagas.journals.path),
    )  # fmt: skip
    assert list(NAMES) == files_of(memory_tmp)
    assert ["begin", "intent", "intent", "intent"] == kinds_of(committed)[:4]
    assert sagas.unwind("s", OVER).closed
    assert [] == files_of(memory_tmp)


def test_a_second_damage_is_quarantined_under_the_next_name(sagas, committed, memory_tmp):
    for _ in range(3):
        noise(committed)
        sagas.recover(policy=leads_on(memory_tmp))

    assert ["s.jsonl.1.damaged", "s.jsonl.2.damaged", "s.jsonl.damaged"] == quarantined(sagas)


def test_an_unwinding_goes_on_though_a_line_before_it_is_damaged(sagas, committed, memory_tmp):
    """An undamaged line proves the unwinding."""
    whole = committed.read_bytes().replace(b'"commit"', b'"c0mmit"')
    sagas.unwind("s", OVER)
    closed = sagas.journals.closed_file("s")
    unwind = closed.read_bytes().splitlines(keepends=True)[8]
    assert unwind.startswith(b'{"kind":"unwind"')
    closed.unlink()
    world = renewed(sagas, committed, whole + unwind)

    report = world.recover(policy=leads_on(memory_tmp))

    assert ("its life is over", []) == (report.unwound["s"].why.message, files_of(memory_tmp))


def test_a_closed_saga_stays_closed_though_its_unwind_line_is_damaged(sagas, committed, memory_tmp):
    sagas.unwind("s", OVER)
    closed = sagas.journals.closed_file("s")
    whole = closed.read_bytes().replace(b'"unwind"', b'"unw1nd"')
    closed.unlink()
    committed.write_bytes(whole)

    report = sagas.recover(policy=leads_on(memory_tmp))

    assert ("closed", {}) == (stands(sagas.journals.path, "s"), report.unwound)
    assert OVER == sagas.report("s").why


def test_a_saga_whose_receipts_cannot_be_derived_is_left_alone(sagas, committed):
    """The files stay unchanged, and the error is reported."""
    noise(committed)
    before = committed.read_bytes()

    def unknown(_saga_id, _labels):
        raise LookupError("which task was it?")

    report = sagas.recover(policy=policy(derive_receipts=unknown))

    assert {"s": "LookupError: which task was it?"} == report.failed
    assert (before, []) == (committed.read_bytes(), quarantined(sagas))


def test_a_journal_with_a_living_owner_is_not_rebuilt(sagas, committed, memory_tmp):
    with sagas.open("s"):
        noise(committed)

        assert ("s",) == sagas.recover(policy=leads_on(memory_tmp)).busy
        assert [] == quarantined(sagas)


def test_a_journal_that_another_process_has_rebuilt_is_not_rebuilt_again(
    sagas, committed, memory_tmp
):
    """Two recoveries see the damage; the second gets the lock after the first has finished."""
    noise(committed)
    sagas.recover(policy=leads_on(memory_tmp))

    with pytest.raises(SagaBusy, match="rebuilt by another process"):
        sagas.journals.rebuild("s", list)

    assert ("committed", ["s.jsonl.damaged"]) == (
        stands(sagas.journals.path, "s"),
        quarantined(sagas),
    )


# --- files that a crash, or an earlier release, has left without a name -----------------------


LEFTOVERS = [".new-9-x", ".spare-0"]  #: The second is from an earlier release.


@pytest.mark.parametrize("name", LEFTOVERS)
def test_a_damaged_leftover_stays_and_stops_nothing(sagas, committed, name):
    leftover = sagas.journals.path / name
    leftover.write_bytes(committed.read_bytes().replace(b'"begin"', b'"beg1n"'))

    report = reopened(sagas).recover()

    assert (("s",), {}, True) == (report.alive, report.damaged, leftover.exists())


@pytest.mark.parametrize("name", LEFTOVERS)
@pytest.mark.parametrize("content", [b"", b'{"kind":"begin"'])
@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_an_incomplete_leftover_is_removed_and_is_no_damage(sagas, committed, name, content, mode):
    leftover = sagas.journals.path / name
    leftover.write_bytes(content)
    leftover.chmod(mode)

    report = reopened(sagas).recover()

    assert (("s",), {}, {}) == (report.alive, report.damaged, report.failed)
    assert ["closed", committed.name] == names_in(sagas)


@pytest.mark.parametrize("name", LEFTOVERS)
def test_a_complete_leftover_gets_its_name_and_is_recovered(sagas, committed, memory_tmp, name):
    """The power failed before the name of the journal was on the disk."""
    committed.rename(sagas.journals.path / name)

    report = reopened(sagas).recover()

    assert (("s",), [committed.name]) == (report.alive, open_journals(sagas.journals.path))
    assert list(NAMES) == files_of(memory_tmp)


@pytest.mark.parametrize("name", LEFTOVERS)
def test_a_leftover_that_has_its_name_already_is_removed(sagas, committed, name):
    os.link(committed, sagas.journals.path / name)

    assert ("s",) == reopened(sagas).recover().alive
    assert (1, ["closed", committed.name]) == (
        committed.stat().st_nlink,
        names_in(sagas),
    )


@pytest.mark.parametrize("name", LEFTOVERS)
@pytest.mark.parametrize("planted", [symlink, directory, fifo])
def test_a_planted_file_under_the_name_of_a_leftover_is_not_touched(sagas, planted, name):
    path = sagas.journals.path / name
    path.write_text("a stranger's")
    planted(path)
    before = os.lstat(path)

    assert {} == reopened(sagas).recover().failed
    assert os.path.samestat(before, os.lstat(path))
    if planted is symlink:
        assert "a stranger's" == path.read_text()


def names_in(sagas):
    return sorted(path.name for path in sagas.journals.path.iterdir())


def reopened(sagas):
    return Sagas(sagas.journals.path, steps=[OnDisk()])
