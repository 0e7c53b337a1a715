"""Retention: which files a collection removes, which stay, and which it never touches."""

from __future__ import annotations

import gzip
import json
import os
import stat
import time
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, strategies
from support import past

from orchestrator_core.deployment.steps.session import LogReceipt
from orchestrator_core.exceptions import InvalidInput, LockTimeout
from orchestrator_core.model.settings import Retention
from orchestrator_core.operations.retention import collect, inventory, safe_dir
from orchestrator_core.operations.retention.policy import DAY_S, StoredFile, select
from orchestrator_core.operations.retention.safe_dir import FileState
from orchestrator_core.system import locks

LONG = b"the agent says a line\n" * 1000


# --- the policy -----------------------------------------------------------------------------------

NOW = 1_000_000_000.0


def stored_file(name, *, days=0.0, size=1, task="TASK-1"):
    since = NOW - days * DAY_S
    state = FileState(stat.S_IFREG, size, int(since * 1e9), 1)
    return StoredFile((task, "archive"), name, state, since, task)


def select_files(given, /, **bounds):
    bounds = {"days": None, "compress_after_days": None, **bounds}
    selection = select(given, Retention(**bounds), now=NOW)
    return {file.name: why for file, why in selection.remove}


def test_a_file_older_than_the_limit_is_selected():
    files = [stored_file("old", days=8), stored_file("new", days=6)]

    assert {"old": "age"} == select_files(files, days=7)
    assert {} == select_files(files, days=None)
    assert {} == select_files(files, days=float("inf"))


def test_a_file_from_the_future_has_no_age_and_is_selected_last():
    """The clock was set back since, so the age of the file is unknown."""
    files = [stored_file("future", days=-400), stored_file("today")]

    assert {} == select_files(files, days=0)
    assert {"today": "count"} == select_files(files, files=1)


def test_the_oldest_files_of_a_task_with_too_many_are_selected():
    files = [stored_file(f"{task}{day}", days=day, task=task) for task in "ab" for day in (1, 2, 3)]

    assert {"a3": "count", "b3": "count"} == select_files(files, files_per_task=2)
    assert {"a3": "count", "b3": "count", "a2": "count"} == select_files(files, files=3)


def test_the_oldest_files_are_selected_until_the_rest_is_small_enough():
    files = [stored_file(f"f{day}", days=day, size=10) for day in (1, 2, 3)]

    assert {"f3": "size"} == select_files(files, bytes_per_task=29)
    assert {} == select_files(files, bytes=30)
    assert {"f1": "size", "f2": "size", "f3": "size"} == select_files(files, bytes=9)


def test_a_file_selected_by_age_makes_room_for_the_rest():
    files = [stored_file("old", days=9), stored_file("a", days=2), stored_file("b", days=1)]

    assert {"old": "age"} == select_files(files, days=7, files=2)


def test_a_file_to_compress_is_old_and_large_enough_and_stays():
    files = [
        stored_file("a.jsonl", days=2, size=5000),
        stored_file("new.jsonl", days=0, size=5000),
        stored_file("small.jsonl", days=2, size=100),
        stored_file("b.jsonl.gz", days=2, size=5000),
        stored_file("goes.jsonl", days=8, size=5000),
    ]

    selection = select(files, Retention(), now=NOW)

    assert ["a.jsonl"] == [file.name for file in selection.compress]
    assert ["goes.jsonl"] == [file.name for file, _ in selection.remove]


@given(
    strategies.lists(
        strategies.tuples(
            strategies.integers(-5, 20), strategies.integers(0, 50), strategies.sampled_from("abc")
        )
    ),
    strategies.none() | strategies.integers(0, 10),
    strategies.none() | strategies.integers(0, 100),
    strategies.none() | strategies.integers(0, 10),
    strategies.none() | strategies.integers(0, 100),
)
def test_the_remaining_files_are_within_all_bounds(generated, n, size, alln, alls):
    files = [
        stored_file(f"{i}", days=day, size=size, task=task)
        for i, (day, size, task) in enumerate(generated)
    ]
    bounds = {"files_per_task": n, "bytes_per_task": size, "files": alln, "bytes": alls}
    selected = select_files(files, **bounds)
    remaining = [file for file in files if file.name not in selected]

    for task in (*"abc", None):
        of_task = [file for file in remaining if task in (None, file.task_id)]
        most, bytes_ = (alln, alls) if task is None else (n, size)
        assert most is None or len(of_task) <= most
        assert bytes_ is None or sum(file.state.size for file in of_task) <= bytes_
    if set(bounds.values()) == {None}:
        assert {} == selected


@pytest.mark.parametrize(
    ("name", "agent"),
    [
        ("a-1-2_stream.jsonl", "a-1-2"),
        ("a_stream_stream.jsonl", "a_stream"),
        ("a_stream.1.jsonl", "a"),
        ("a_stream.12.jsonl.gz", "a"),
        ("a_progress.jsonl.gz", "a"),
        ("a_findings.jsonl", "a"),
        ("deploy_a.json", "a"),
        ("deploy_a.2.json.gz", "a"),
        ("agent_prompt_a.txt", "a"),
    ],
)
def test_the_name_of_an_archived_file_is_recognized(name, agent):
    assert agent == inventory.agent_of(name)


@pytest.mark.parametrize(
    "name",
    [
        *("notes.txt", "_stream.jsonl", "a_stream.json", "a_stream.jsonl.bak", "a b_stream.jsonl"),
        *("..", "a_stream.jsonl\n", "-rf_stream.jsonl", "deploy_.json", "a_stream.x.jsonl", ".gz"),
    ],
)
def test_another_name_is_not_recognized(name):
    assert inventory.agent_of(name) is None


# --- a collection ---------------------------------------------------------------------------------


def test_a_new_file_stays(fake_scene):
    orch, _, ids = past.end_some(fake_scene, 2, written=LONG)
    before = fake_scene.world.snapshot()

    report = orch.gc()

    assert ((), (), (), ()) == (report.removed, report.compressed, report.journals, report.failed)
    assert before == fake_scene.world.snapshot()
    assert sorted(ids) == past.journals(orch.root)


def test_a_file_older_than_a_week_is_removed_and_its_journal_counted(fake_scene):
    orch, task, ids = past.end_some(fake_scene, 2, written=LONG)
    past.age(orch.root, 8)
    before = orch.stats()

    report = orch.gc()

    assert [] == past.archives(orch.root) == past.journals(orch.root)
    assert sorted(ids) == sorted(Path(item.path).stem for item in report.journals)
    assert {"age"} == {item.why for item in report.removed}
    assert (4, report.tasks[task].removed) == (len(report.removed), 4)
    assert report.bytes_freed >= 2 * len(LONG)
    assert before.cleanups == orch.stats().cleanups
    assert [] == fake_scene.world.litter()


def test_a_dry_run_changes_nothing_and_predicts_the_collection(fake_scene):
    orch, _, _ = past.end_some(fake_scene, 2, written=LONG)
    past.age(orch.root, 8, pattern="sagas/closed/*")
    past.age(orch.root, 8, pattern="TASK-*/archive/deploy_*")
    before = fake_scene.world.snapshot()

    would = orch.gc(dry_run=True)

    assert before == fake_scene.world.snapshot()
    did = orch.gc()
    for name in ("removed", "journals", "failed"):
        assert sorted(map(str, getattr(did, name))) == sorted(map(str, getattr(would, name)))
    assert [item.path for item in did.compressed] == [item.path for item in would.compressed]


def test_a_silent_log_is_as_new_as_its_agents_end(fake_scene):
    """The last write was eight days ago, and the agent ended a minute ago."""
    orch, _, _ = past.end_some(fake_scene, written=LONG)
    past.age(orch.root, 8, pattern="TASK-*/archive/*")

    assert ((), ()) == (orch.gc().removed, orch.gc().compressed)


def test_a_file_older_than_a_day_is_compressed_and_still_readable(fake_scene):
    orch, _, [agent] = past.end_some(fake_scene, written=LONG)
    past.age(orch.root, 2)
    [log] = (orch.root).glob("TASK-*/archive/*_stream.jsonl")
    written_at = log.stat().st_mtime_ns

    report = orch.gc()

    packed = log.with_name(f"{log.name}.gz")
    assert LONG == gzip.decompress(packed.read_bytes())
    assert (0o600, written_at) == (packed.stat().st_mode & 0o777, packed.stat().st_mtime_ns)
    assert not log.exists()
    assert LONG.decode() == orch.read_output(agent)
    assert LONG.decode()[-22:] == orch.read_output(agent, tail=1)
    assert [len(LONG) - packed.stat().st_size] == [item.freed for item in report.compressed]
    assert () == orch.gc().compressed  # Not twice.
    past.age(orch.root, 8)
    assert not orch.gc().failed
    assert [] == past.archives(orch.root)


def test_a_damaged_compressed_file_is_an_error_and_not_empty_output(fake_scene):
    orch, _, [agent] = past.end_some(fake_scene, written=LONG)
    past.age(orch.root, 2)
    orch.gc()
    [packed] = orch.root.glob("TASK-*/archive/*.gz")
    packed.write_bytes(packed.read_bytes()[:-9])

    with pytest.raises(Exception, match="damaged"):
        orch.read_output(agent)


def test_compression_overwrites_no_existing_name(fake_scene):
    orch, _, _ = past.end_some(fake_scene, written=LONG)
    [log] = orch.root.glob("TASK-*/archive/*_stream.jsonl")
    taken = log.with_name(f"{log.name}.gz")
    taken.write_bytes(gzip.compress(b"another's"))
    past.age(orch.root, 2)

    orch.gc()

    assert b"another's" == gzip.decompress(taken.read_bytes())
    beside = log.with_name(f"{log.stem}.1.jsonl.gz")
    assert LONG == gzip.decompress(beside.read_bytes())


def test_the_compressed_file_of_a_killed_collection_is_reused(fake_scene):
    orch, _, _ = past.end_some(fake_scene, written=LONG)
    past.age(orch.root, 2)
    [log] = orch.root.glob("TASK-*/archive/*_stream.jsonl")
    packed = log.with_name(f"{log.name}.gz")
    packed.write_bytes(gzip.compress(LONG))
    inode = packed.stat().st_ino

    orch.gc()

    assert (False, inode) == (log.exists(), packed.stat().st_ino)


def test_a_highly_compressed_file_is_verified_in_small_pieces(fake_scene):
    """The content of a file that shrinks a thousandfold must not fill the memory."""
    orch, _, _ = past.end_some(fake_scene, written=LONG)
    [log] = orch.root.glob("TASK-*/archive/*_stream.jsonl")
    os.truncate(log, 64 << 20)
    past.age(orch.root, 2)
    tracemalloc.start()
    orch.gc()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert most < 16 << 20
    assert not log.exists()


def test_the_settings_limit_the_archive(fake_scene):
    orch, _, _ = past.end_some(fake_scene, 3)
    past.write_settings(orch.root, "[retention]\nfiles_per_task = 2\ncompress_after_days = inf\n")

    report = fake_scene.orchestrator().gc()

    assert ["count"] * 4 == [item.why for item in report.removed]
    assert 2 == len(past.archives(orch.root))
    assert 3 == len(past.journals(orch.root))


def test_invalid_settings_remove_nothing(fake_scene):
    orch, _, _ = past.end_some(fake_scene)
    past.age(orch.root, 8)
    past.write_settings(orch.root, "[retention]\ndays = -1\n")

    with pytest.raises(InvalidInput, match="days"):
        fake_scene.orchestrator().gc()
    assert 2 == len(past.archives(orch.root))


# --- what is never touched ------------------------------------------------------------------------


def test_the_files_of_an_open_saga_are_held(fake_scene):
    """The log is archived and the saga is STUCK: its receipts still name all files."""
    orch, task, _ = past.end_some(fake_scene)
    agent = orch.deploy(task, fake_scene.spec())
    orch.terminate(orch.deploy(task, fake_scene.spec("unkillable")).id)
    archive = orch.root / task / "archive"
    (archive / f"{agent.id}_stream.jsonl").write_text("moved half-way")
    past.write_settings(orch.root, "[retention]\ndays = 0\nfiles = 0\nbytes = 0\n")
    past.age(orch.root, 99)

    report = fake_scene.orchestrator().gc()

    assert 3 == report.held
    assert (archive / f"{agent.id}_stream.jsonl").exists()
    assert 3 == len(past.archives(orch.root))
    assert 2 == len(fake_scene.world.files("sagas/*.jsonl"))


def test_the_files_in_an_adopted_sagas_receipts_are_held(fake_scene):
    orch, task, [agent] = past.end_some(fake_scene)
    layout = orch._context.layout
    receipt = LogReceipt(
        log=str(layout.log(task, agent)),
        deploy_log=str(layout.deploy_log(task, agent)),
        progress=str(layout.progress(task, agent)),
        findings=str(layout.findings(task, agent)),
        run=str(layout.run_dir(task, agent)),
        archive=str(layout.archive(task)),
    )
    with orch._terminator.sagas.create_committed("swept-1", {"tee_log": receipt}, labels={}):
        pass
    past.age(orch.root, 99)

    assert 2 == orch.gc().held
    assert 2 == len(past.archives(orch.root))


def test_a_foreign_file_in_an_archive_stays(fake_scene):
    orch, task, _ = past.end_some(fake_scene)
    archive = orch.root / task / "archive"
    (archive / "notes.txt").write_text("mine")
    (archive / "sub_stream.jsonl").mkdir()
    os.mkfifo(archive / "fifo_stream.jsonl")
    past.age(orch.root, 99)

    assert () == orch.gc().failed
    assert ["fifo_stream.jsonl", "notes.txt", "sub_stream.jsonl"] == past.archives(orch.root)


def test_links_are_neither_followed_nor_removed(fake_scene):
    orch, task, _ = past.end_some(fake_scene)
    outside = fake_scene.root.parent / "elsewhere"
    outside.mkdir()
    for name in ("a_stream.jsonl", "b_stream.jsonl"):
        (outside / name).write_bytes(LONG)
    archive = orch.root / task / "archive"
    (archive / "a_stream.jsonl").symlink_to(outside / "a_stream.jsonl")
    past.age(outside, 99)
    past.age(orch.root, 99)

    orch.gc()

    assert ["a_stream.jsonl"] == past.archives(orch.root)
    assert [LONG, LONG] == [path.read_bytes() for path in sorted(outside.iterdir())]


@pytest.mark.parametrize("which", ["archive", "task"])
def test_an_archive_that_is_a_link_is_not_touched_and_is_reported(fake_scene, which):
    orch, task, _ = past.end_some(fake_scene)
    other = orch.create_task("another").id
    outside = fake_scene.root.parent / "elsewhere"
    if which == "archive":
        (orch.root / other / "archive").rename(outside)
        (orch.root / other / "archive").symlink_to(outside)
        shelf = outside
    else:
        (orch.root / other).rename(outside)
        (orch.root / other).symlink_to(outside)
        shelf = outside / "archive"
    (shelf / "a_stream.jsonl").write_bytes(LONG)
    past.age(outside, 99)
    past.age(orch.root, 99)

    report = orch.gc()

    assert any(other in why for why in report.failed)
    assert (shelf / "a_stream.jsonl").exists()
    assert [] == list((orch.root / task / "archive").iterdir())


def test_a_file_that_changes_before_its_removal_stays(fake_scene, monkeypatch):
    orch, _, _ = past.end_some(fake_scene, written=LONG)
    past.age(orch.root, 8)
    [log] = orch.root.glob("TASK-*/archive/*_stream.jsonl")

    def take_inventory(*args, **how):
        inventory = original(*args, **how)
        log.write_bytes(b"new")
        return inventory

    original = collect.take_inventory
    monkeypatch.setattr(collect, "take_inventory", take_inventory)
    report = orch.gc()

    assert ([log.name], True) == (past.archives(orch.root), log.exists())
    assert any("changed meanwhile" in why for why in report.failed)


def test_a_log_that_grows_during_compression_loses_nothing(fake_scene, monkeypatch):
    """A surviving process of the agent still writes."""
    orch, _, _ = past.end_some(fake_scene, written=LONG)
    past.age(orch.root, 2)
    [log] = orch.root.glob("TASK-*/archive/*_stream.jsonl")

    def pack(source, target):
        original(source, target)
        with log.open("ab") as file:
            file.write(b"one more line\n")

    original = safe_dir._write_gzip
    monkeypatch.setattr(safe_dir, "_write_gzip", pack)
    report = orch.gc()

    assert LONG + b"one more line\n" == log.read_bytes()
    assert () == report.compressed
    assert [log.name] == [p.name for p in log.parent.iterdir() if "stream" in p.name]


def test_an_error_of_one_file_stops_nothing_else(fake_scene, monkeypatch):
    orch, _, [first, second] = past.end_some(fake_scene, 2)
    past.age(orch.root, 8)
    original = os.unlink

    def unlink(name, **how):
        if str(name).startswith(first):
            raise PermissionError(13, "Permission denied")
        original(name, **how)

    monkeypatch.setattr(os, "unlink", unlink)
    report = orch.gc()
    monkeypatch.undo()

    assert 1 == len(report.failed)
    assert [f"{first}_stream.jsonl"] == past.archives(orch.root)
    assert [] == past.journals(orch.root)
    assert not orch.gc().failed
    assert [] == past.archives(orch.root), second


def test_a_clock_that_was_set_back_removes_nothing(fake_scene, monkeypatch):
    orch, _, _ = past.end_some(fake_scene, written=LONG)
    before = fake_scene.world.snapshot()
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() - 3650 * DAY_S)

    report = orch.gc()

    assert ((), (), ()) == (report.removed, report.compressed, report.journals)
    assert before == fake_scene.world.snapshot()


def test_the_archives_of_legacy_agents_have_the_same_rules(fake_scene):
    orch = fake_scene.orchestrator()
    task = orch.root / "TASK-20250101-000000-00000000"
    (task / "archive").mkdir(parents=True)
    record = {"id": "old-000000-abcdef", "status": "completed", "tmux_session": "agent_old"}
    document = {"task_id": task.name, "task_description": "old", "agents": [record]}
    (task / "AGENT_REGISTRY.json").write_text(json.dumps(document))
    (task / "archive" / "old-000000-abcdef_stream.jsonl").write_text("line\n")
    (task / "archive" / "README").write_text("by hand")
    past.age(orch.root, 8)

    assert [task.name] == list(orch.gc().tasks)
    assert ["README"] == past.archives(orch.root)


# --- what crashes and damage have left ------------------------------------------------------------


def test_an_old_quarantined_file_is_removed(fake_scene):
    orch, task, [agent] = past.end_some(fake_scene)
    names_ = [
        f"sagas/{agent}.jsonl.damaged",
        f"sagas/{agent}.jsonl.1.damaged",
        f"{task}/AGENT_REGISTRY.json.damaged-20250101T000000.000000Z",
        "registry/GLOBAL_REGISTRY.json.damaged-20250101T000000.000000Z",
    ]
    for name in names_:
        (orch.root / name).write_text("damaged")

    assert () == orch.gc().removed
    past.age(orch.root, 8)
    report = orch.gc()

    assert sorted(names_) == sorted(i.path for i in report.removed if i.why == "damaged")
    assert [] == fake_scene.world.litter()


def test_a_quarantined_registry_without_a_successor_stays(fake_scene):
    orch, task, _ = past.end_some(fake_scene)
    registry = orch.root / task / "AGENT_REGISTRY.json"
    quarantined = registry.with_name("AGENT_REGISTRY.json.damaged-20250101T000000.000000Z")
    registry.rename(quarantined)
    past.age(orch.root, 99)

    orch.gc()

    assert quarantined.exists()


def test_a_registry_that_was_quarantined_today_stays(fake_scene):
    orch, task, _ = past.end_some(fake_scene)
    stamp = time.strftime("%Y%m%dT%H%M%S.000000Z", time.gmtime())
    quarantined = orch.root / task / f"AGENT_REGISTRY.json.damaged-{stamp}"
    quarantined.write_text("damaged")
    past.age(orch.root, 99)

    orch.gc()

    assert quarantined.exists()


def test_a_live_agents_damaged_journal_stays(fake_scene):
    orch, task, _ = past.end_some(fake_scene)
    agent = orch.deploy(task, fake_scene.spec())
    quarantined = orch.root / "sagas" / f"{agent.id}.jsonl.damaged"
    quarantined.write_text("damaged")
    past.age(orch.root, 99)

    orch.gc()

    assert quarantined.exists()


def test_the_temporary_files_of_killed_writers_are_removed(fake_scene):
    orch, task, _ = past.end_some(fake_scene)
    temporary = [
        f"{task}/archive/.a_stream.jsonl.4711-0123abcd.tmp",
        f"{task}/.AGENT_REGISTRY.json.4711-0123abcd.tmp",
        "registry/.STATS.json.4711-0123abcd.tmp",
        ".root.json.4711-0123abcd.tmp",
    ]
    for name in (*temporary, f"{task}/.mine.tmp", f"{task}/output/.x.1-0123abcd.tmp"):
        (orch.root / name).write_text("half")

    assert temporary[:1] == [item.path for item in orch.gc().removed]  # Others may be at work.
    past.age(orch.root, 2)
    assert sorted(temporary[1:]) == sorted(item.path for item in orch.gc().removed)
    assert (orch.root / task / ".mine.tmp").exists()
    assert (orch.root / task / "output" / ".x.1-0123abcd.tmp").exists()


# --- beside others --------------------------------------------------------------------------------


def test_two_collections_never_run_at_once(fake_scene):
    orch, _, _ = past.end_some(fake_scene)
    past.age(orch.root, 8)
    fd = os.open(orch.root / "registry", os.O_RDONLY)
    try:
        assert locks.try_lock(fd)
        with pytest.raises(LockTimeout, match="another collection runs"):
            orch.gc()
        assert 2 == len(orch.gc(dry_run=True).removed)  # To look needs no turn.
    finally:
        os.close(fd)
    assert 2 == len(orch.gc().removed)


# --- when the journal is gone ---------------------------------------------------------------------


def test_the_report_of_an_old_end_is_available(fake_scene):
    """The journal is gone. The record has everything but the single steps."""
    orch, _, [agent] = past.end_some(fake_scene)
    end = orch.terminate(agent)
    past.age(orch.root, 8)
    orch.gc()

    for asked in (
        fake_scene.orchestrator().terminate(agent),
        orch.wait(agent, timeout_s=0.1),
        orch.report_progress(agent, "working").end,
        orch.report_progress(agent, "completed").end,
    ):
        assert {**end.to_dict(), "steps": ()} == asked.to_dict()
    assert "terminated" == orch.agent(agent).status
    assert 1 == orch.stats().total


def test_an_ended_family_is_reported_without_its_journals(fake_scene):
    orch, task, _ = past.end_some(fake_scene)
    parent = orch.deploy(task, fake_scene.spec()).id
    child = orch.deploy(task, fake_scene.spec(parent=parent)).id
    orch.terminate(parent)
    past.age(orch.root, 8)
    orch.gc()

    end = fake_scene.orchestrator().terminate(parent)

    assert [(child, "terminated", True)] == [
        (c.agent_id, c.status, c.success) for c in end.children
    ]
