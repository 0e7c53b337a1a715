"""Owners: alive, dead, forked, many at once. Real processes, real locks."""

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from child_crashes import in_child
from saga_kit import NAMES, OnDisk, Shelf, Thing, kinds_of, on_disk, stands

from orchestrator_core.exceptions import SagaBusy, SagaExists, SagaNotFound, StorageError
from orchestrator_core.saga import Sagas, Unwind

HELPERS = Path(__file__).parents[1] / "helpers"
OVER = Unwind.terminal("its life is over")


def open_sagas(place):
    return Sagas(place / "sagas", steps=[OnDisk()])


def files_of(place):
    return [name for name in NAMES if (place / f"s.{name}").exists()]


@contextlib.contextmanager
def program(text, *arguments):
    """Run a Python program in parallel; closing its input lets it go on."""
    prelude = f"import sys; sys.path[:0] = [{str(HELPERS)!r}, {str(Path.cwd())!r}]\n"
    child = subprocess.Popen(
        [sys.executable, "-c", prelude + text, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield child
    finally:
        child.kill()
        child.wait()
        child.stdin.close()
        child.stdout.close()


OWNER = """
from orchestrator_core.saga import Sagas
from saga_kit import OnDisk, on_disk
place = sys.argv[1]
saga = Sagas(place + "/sagas", steps=[OnDisk()]).begin("s", on_disk(), values={"place": place})
saga.run()
print("running", flush=True)
sys.stdin.read()
saga.commit()
saga.release()
"""


def test_the_saga_of_a_living_process_is_not_disturbed(tmp_path):
    with program(OWNER, tmp_path) as owner:
        assert "running\n" == owner.stdout.readline()
        assert ("s",) == open_sagas(tmp_path).recover().busy
        with pytest.raises(SagaBusy):
            open_sagas(tmp_path).unwind("s", OVER, timeout_s=0.05)
        owner.stdin.close()
        owner.wait()

    assert ("committed", list(NAMES)) == (stands(tmp_path / "sagas", "s"), files_of(tmp_path))


def test_the_saga_of_a_stopped_process_is_not_disturbed(tmp_path):
    """A stopped process is alive, and may go on."""
    with program(OWNER, tmp_path) as owner:
        owner.stdout.readline()
        owner.send_signal(signal.SIGSTOP)
        assert ("s",) == open_sagas(tmp_path).recover().busy
        owner.send_signal(signal.SIGCONT)
        owner.stdin.close()
        owner.wait()

    assert "committed" == stands(tmp_path / "sagas", "s")


def test_the_saga_of_a_killed_process_is_recovered_at_once(tmp_path):
    with program(OWNER, tmp_path) as owner:
        owner.stdout.readline()
        owner.kill()
        owner.wait()
        report = open_sagas(tmp_path).recover()

    assert (["s"], []) == (list(report.unwound), files_of(tmp_path))


def test_a_reader_of_a_dead_owners_saga_does_not_make_it_busy(tmp_path):
    """A supervisor at its gate, or a sweep, holds the shared lock for one read."""
    with program(OWNER, tmp_path) as owner:
        owner.stdout.readline()
        owner.kill()
        owner.wait()
    with (tmp_path / "sagas" / "s.jsonl").open("rb") as looked_at:
        fcntl.flock(looked_at, fcntl.LOCK_SH)
        done_looking = threading.Timer(0.2, fcntl.flock, (looked_at, fcntl.LOCK_UN))
        done_looking.start()
        report = open_sagas(tmp_path).recover()
        done_looking.join()

    assert ((), ["s"], []) == (report.busy, list(report.unwound), files_of(tmp_path))


def test_the_saga_of_another_thread_is_not_disturbed(tmp_path):
    """A lock belongs to the open file, so it also excludes threads of the same process."""
    shelf = Shelf()
    begun, go_on = threading.Event(), threading.Event()

    class Slow(Thing):
        def do(self, receipt):
            begun.set()
            assert go_on.wait(10)
            return super().do(receipt)

    def own(sagas):
        with sagas.begin("s", [Slow(shelf)]) as saga:
            saga.run()
            saga.commit()

    sagas = Sagas(tmp_path, steps=[Thing(shelf)])
    thread = threading.Thread(target=own, args=(sagas,))
    thread.start()
    assert begun.wait(10)
    busy = sagas.recover().busy
    go_on.set()
    thread.join()

    assert (("s",), ("s",)) == (busy, sagas.recover().alive)


def test_a_waiting_process_gets_the_saga_when_its_owner_releases_it(tmp_path):
    with program(OWNER, tmp_path) as owner:
        owner.stdout.readline()
        threading.Timer(0.1, owner.stdin.close).start()
        report = open_sagas(tmp_path).unwind("s", OVER, timeout_s=10)

    assert (True, []) == (report.closed, files_of(tmp_path))


def test_a_waiting_unwinder_gets_the_report_of_the_first(tmp_path):
    """The second unwinder waits, finds the journal archived, and reads the report."""
    began, go_on = threading.Event(), threading.Event()

    class Slow(OnDisk):
        def undo(self, receipt, why):
            began.set()
            assert go_on.wait(10)
            return super().undo(receipt, why)

    with open_sagas(tmp_path).begin("s", on_disk(), values={"place": str(tmp_path)}) as saga:
        saga.run()
        saga.commit()
    slow = Sagas(tmp_path / "sagas", steps=[Slow()])
    first = threading.Thread(target=slow.unwind, args=("s", Unwind.terminal("first")))
    first.start()
    assert began.wait(10)
    threading.Timer(0.1, go_on.set).start()

    report = open_sagas(tmp_path).unwind("s", Unwind.terminal("second"), timeout_s=10)

    first.join()
    assert "first" == report.why.message


RECOVERER = """
import json
from orchestrator_core.saga import Sagas
from saga_kit import OnDisk
sagas = Sagas(sys.argv[1] + "/sagas", steps=[OnDisk()])
print("ready", flush=True)
sys.stdin.read()
report = sagas.recover()
print(json.dumps({saga_id: [step.result for step in unwound.steps]
                  for saga_id, unwound in report.unwound.items()}), report.failed, sep="\\n")
"""


def test_recoveries_at_the_same_time_undo_each_step_once(tmp_path):
    """Of four processes, one unwinds each of twenty dead sagas, and no step is undone twice."""
    sagas = open_sagas(tmp_path)
    for number in range(20):
        saga = sagas.begin(f"s{number}", on_disk(), values={"place": str(tmp_path)})
        saga.run()
        saga.release()

    with contextlib.ExitStack() as stack:
        children = [stack.enter_context(program(RECOVERER, tmp_path)) for _ in range(4)]
        for child in children:
            child.stdout.readline()
        for child in children:
            child.stdin.close()
        outputs = [child.stdout.read().splitlines() for child in children]

    unwound = [pair for lines in outputs for pair in json.loads(lines[0]).items()]
    assert sorted(f"s{number}" for number in range(20)) == sorted(name for name, _ in unwound)
    assert [["undone"] * 3] * 20 == [results for _, results in unwound]
    assert ["{}"] * 4 == [lines[1] for lines in outputs]


BEGINNER = """
from orchestrator_core.exceptions import SagaExists
from orchestrator_core.saga import Sagas
from saga_kit import Shelf, Thing
sagas = Sagas(sys.argv[1] + "/sagas", steps=[])
print("ready", flush=True)
sys.stdin.read()
won = 0
for number in range(40):
    try:
        with sagas.begin(f"s{number}", [Thing(Shelf())]) as saga:
            saga.run()
            saga.commit()
            won += 1
    except SagaExists:
        pass
print(won)
"""


def test_exactly_one_of_many_processes_begins_a_saga_of_one_id(tmp_path):
    """Every journal belongs to its saga."""
    open_sagas(tmp_path)
    with contextlib.ExitStack() as stack:
        children = [stack.enter_context(program(BEGINNER, tmp_path)) for _ in range(4)]
        for child in children:
            child.stdout.readline()
        for child in children:
            child.stdin.close()
        won = [int(child.stdout.read()) for child in children]

    assert 40 == sum(won)
    for number in range(40):
        journal = tmp_path / "sagas" / f"s{number}.jsonl"
        assert ["begin", "intent", "done", "commit"] == kinds_of(journal)
        assert 1 == journal.stat().st_nlink


def test_an_id_that_is_closed_while_it_is_begun_again_stays_closed(tmp_path, monkeypatch):
    """The first saga of that id closes between the check and the link."""
    sagas = open_sagas(tmp_path)
    closed = sagas.journals.closed_file("s")
    real = os.link

    def late(*args, **options):
        closed.write_bytes(b"the end of the first")
        return real(*args, **options)

    monkeypatch.setattr(os, "link", late)
    with pytest.raises(SagaExists):
        sagas.begin("s", on_disk(), values={"place": str(tmp_path)})

    assert (b"the end of the first", False) == (
        closed.read_bytes(), sagas.journals.file("s").exists(),
    )  # fmt: skip


# --- forks ------------------------------------------------------------------------------------


def test_a_process_forked_inside_the_block_neither_unwinds_nor_writes(tmp_path):
    """A child that leaves the block by an exception does not touch its parent's saga."""
    shelf_sagas = open_sagas(tmp_path)

    def child(saga):
        with pytest.raises(StorageError, match="not owned by this process"):
            saga.note("from the child")
        with contextlib.suppress(SystemExit), saga:
            raise SystemExit

    with shelf_sagas.begin("s", on_disk(), values={"place": str(tmp_path)}) as saga:
        saga.run()
        assert 0 == in_child(lambda: child(saga))
        assert list(NAMES) == files_of(tmp_path)
        assert ("s",) == open_sagas(tmp_path).recover().busy
        saga.commit()

    assert "committed" == stands(tmp_path / "sagas", "s")


def test_a_process_forked_by_a_step_does_not_own_the_saga(tmp_path):
    """A step leaves a daemon that never calls exec; the saga is free when its owner releases it."""
    alive, end = os.pipe()
    sagas = open_sagas(tmp_path)
    with sagas.begin("s", on_disk(), values={"place": str(tmp_path)}) as saga:
        saga.run()
        pid = os.fork()
        if pid == 0:
            os.close(end)
            os.read(alive, 1)
            os._exit(0)
        saga.commit()

    free = sagas.unwind("s", OVER)
    os.close(end)
    os.close(alive)
    os.waitpid(pid, 0)
    assert free.closed


def test_a_process_that_waits_for_a_damaged_journal_gets_the_rebuilt_one(tmp_path):
    """The process gets the rebuilt journal, not SagaNotFound."""
    sagas = open_sagas(tmp_path)
    with sagas.begin("s", on_disk(), values={"place": str(tmp_path)}) as saga:
        saga.run()
        saga.commit()
    journal = sagas.journals.file("s")
    holder, _ = sagas.journals.open("s")
    rebuilt = journal.with_name("rebuilt")
    rebuilt.write_bytes(journal.read_bytes())

    def rebuild():
        rebuilt.rename(journal)
        holder.close()

    threading.Timer(0.1, rebuild).start()
    assert sagas.unwind("s", OVER, timeout_s=10).closed

    assert ("closed", []) == (stands(tmp_path / "sagas", "s"), files_of(tmp_path))
    with pytest.raises(SagaNotFound):
        sagas.open("s")
