"""
A real SIGKILL before and after every system call that changes the disk.

The check is independent: it lists files, and reads journals by hand. After one recovery either
all files of a saga are there and its journal ends with the commit, or none is there.
"""

import functools
import shutil
import tempfile
from pathlib import Path

import pytest
from child_crashes import effects_of, in_child, kill_at
from saga_kit import (
    NAMES,
    FileReceipt,
    OnDisk,
    kinds_of,
    litter,
    on_disk,
    open_journals,
    policy,
    snapshot,
    stands,
)

from orchestrator_core.saga import Sagas, Unwind

WHEN = ("before", "after")
OVER = Unwind.terminal("its life is over")


def open_sagas(place):
    return Sagas(place / "sagas", steps=[OnDisk()])


def deploy(place):
    """Open the directory as a new process does, and commit a saga."""
    with open_sagas(place).begin("s", on_disk(), values={"place": str(place)}) as saga:
        saga.run()
        saga.commit()


def end(place):
    open_sagas(place).unwind("s", OVER)


def recover(place):
    open_sagas(place).recover()


def verdict_of_death(place):
    open_sagas(place).recover(policy=policy(decide_end=lambda _history: OVER))


def damaged(place):
    """Damage the commit line of a living saga."""
    deploy(place)
    journal = place / "sagas" / "s.jsonl"
    journal.write_bytes(journal.read_bytes().replace(b'"commit"', b'"c0mmit"'))


def in_its_place(place):
    """Replace the journal of a living saga by a directory."""
    deploy(place)
    journal = place / "sagas" / "s.jsonl"
    journal.unlink()
    journal.mkdir()
    (journal / "something").write_text("in it")


def half_run(place):
    """Kill the process after one of three files is written."""
    kill_at(_first("write", deploy), "after", lambda: deploy(place))


def half_unwound(place):
    deploy(place)
    kill_at(_first("unlink", end, deploy), "after", lambda: end(place))


def not_archived(place):
    deploy(place)
    kill_at(_first("rename", end, deploy), "before", lambda: end(place))


def left_without_a_name(place):
    kill_at(_first("link", deploy), "before", lambda: deploy(place))


@functools.cache
def _first(call, work, prepare=None):
    """Return the number of the first such call of *work*."""
    with tempfile.TemporaryDirectory() as place:
        if prepare:
            prepare(Path(place))
        return effects_of(lambda: work(Path(place))).index(call)


def files_of(place):
    return [name for name in NAMES if (place / f"s.{name}").exists()]


def settled(place):
    """Recover in a child process; return what stands, after a check of the files."""
    assert 0 == in_child(lambda: recover(place))
    stand = stands(place / "sagas", "s")
    assert {"committed": list(NAMES), "closed": [], "never": []}[stand] == files_of(place)
    assert ["s.jsonl.damaged"] * len(litter(place / "sagas")) == litter(place / "sagas")
    return stand


def seen_everywhere(memory_tmp, prepare, work):
    """Kill *work* at every point, each time on a new copy; return what stands then."""
    first = memory_tmp / "first"
    first.mkdir()
    prepare(first)
    shutil.copytree(first, memory_tmp / "counted", symlinks=True)
    count = len(effects_of(lambda: work(memory_tmp / "counted")))
    seen = []
    for number in range(count):
        for when in WHEN:
            # The path is in the receipts: each trial takes the same place.
            shutil.rmtree(first)
            first.mkdir()
            prepare(first)
            kill_at(number, when, lambda: work(first))
            seen.append(settled(first))
            before = snapshot(first)
            assert 0 == in_child(lambda: recover(first))
            assert before == snapshot(first), "recovering twice is not recovering once"
    return seen


def nothing(_place):
    """Prepare nothing."""


def test_a_deployment_killed_anywhere_is_all_or_nothing(memory_tmp):
    """Opening, beginning, running and committing: nothing at first, everything at the end."""
    seen = seen_everywhere(memory_tmp, nothing, deploy)

    assert ("never", "committed") == (seen[0], seen[-1])
    assert sorted(seen, key=["never", "closed", "committed"].index) == seen  # never back again
    assert {"never", "closed", "committed"} == set(seen)


def test_an_unwinding_killed_anywhere_goes_on_to_the_end(memory_tmp):
    """The saga lives until the reason is written; then it closes for it."""
    seen = seen_everywhere(memory_tmp, deploy, end)

    assert ("committed", "closed") == (seen[0], seen[-1])
    assert sorted(seen, reverse=True) == seen


@pytest.mark.parametrize("crash", [half_run, half_unwound, not_archived, left_without_a_name])
def test_a_recovery_killed_anywhere_is_finished_by_the_next(memory_tmp, crash):
    """A crash of recovery is one more crash."""
    assert {"closed"} == set(seen_everywhere(memory_tmp, crash, recover))


def test_an_end_by_recovery_killed_anywhere_is_all_or_nothing(memory_tmp):
    assert {"committed", "closed"} == set(seen_everywhere(memory_tmp, deploy, verdict_of_death))


@pytest.mark.parametrize("damage", [damaged, in_its_place])
def test_a_rebuild_killed_anywhere_quarantines_the_damaged_journal_once(memory_tmp, damage):
    """The saga lives on; the damaged file is beside its journal, under one name."""
    place = memory_tmp / "first"

    def derive_receipts(_saga_id, _labels):
        return {name: FileReceipt(path=f"{place}/s.{name}", owner="s") for name in NAMES}

    def rebuild(where):
        open_sagas(where).recover(policy=policy(derive_receipts=derive_receipts))

    place.mkdir()
    damage(place)
    shutil.copytree(place, memory_tmp / "counted")
    count = len(effects_of(lambda: rebuild(memory_tmp / "counted")))
    for number in range(count):
        for when in WHEN:
            shutil.rmtree(place)
            place.mkdir()
            damage(place)
            kill_at(number, when, lambda: rebuild(place))
            assert 0 == in_child(lambda: rebuild(place))

            quarantined = [path.name for path in (place / "sagas").glob("*damaged*")]
            assert (["s.jsonl.damaged"], ["s.jsonl"]) == (
                quarantined,
                open_journals(place / "sagas"),
            )
            assert ("committed", list(NAMES)) == (stands(place / "sagas", "s"), files_of(place))
            assert "intent" in kinds_of(place / "sagas" / "s.jsonl")


def test_an_id_is_not_used_twice_however_its_first_use_was_killed(memory_tmp):
    """A saga that recovery has closed stays closed; an id without a journal is free."""
    place = memory_tmp / "place"
    place.mkdir()
    left_without_a_name(place)
    assert 0 == in_child(lambda: recover(place))

    assert "closed" == stands(place / "sagas", "s")
