"""The export of a finished task into one verified file, and the removal of the task."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import socket
import tarfile
from pathlib import Path

import pytest
from support import past

from orchestrator_core.exceptions import (
    InvalidInput,
    NotFound,
    OrchestratorError,
    StorageError,
    TaskRunning,
)
from orchestrator_core.operations.retention import exporting, tarball


@pytest.fixture
def target(fake_scene):
    return fake_scene.root.parent / "task.tar.gz"


def contents(path):
    """Return the content of a tar file: {name: bytes, link or None}."""
    with tarfile.open(path) as tar:
        return {
            info.name: tar.extractfile(info).read() if info.isfile() else info.linkname or None
            for info in tar
        }


def on_disk(top, *, below):
    found = {}
    for path in [top, *top.rglob("*")]:
        name = str(path.relative_to(below))
        if path.is_symlink():
            found[name] = str(path.readlink())
        else:
            found[name] = path.read_bytes() if path.is_file() else None
    return found


def test_a_tar_file_has_a_complete_task_and_the_journals_of_its_agents(fake_scene, target):
    orch, task, ids = past.end_some(fake_scene, 2, written=b"a line\n")
    past.end_some(fake_scene)  # Another task's.
    with pytest.raises(OrchestratorError):  # The agent never started, and has a journal.
        orch.deploy(task, fake_scene.spec("refuses"))
    (orch.root / task / "output" / "result.txt").write_text("42")
    (orch.root / task / "output" / "again").symlink_to("result.txt")
    (orch.root / task / "output" / "away").symlink_to("/etc/passwd")
    os.link(orch.root / task / "output" / "result.txt", orch.root / task / "output" / "twin")
    os.mkfifo(orch.root / task / "output" / "fifo")
    before = fake_scene.world.snapshot()

    report = orch.export_task(task, target)

    assert before == fake_scene.world.snapshot()
    packed = contents(target)
    expected = on_disk(orch.root / task, below=orch.root)
    journals = [name for name in packed if name.startswith("sagas/")]
    assert set(expected) == set(packed) - set(journals)
    twin = f"{task}/output/twin"
    different = {name for name in expected if packed[name] != expected[name]}
    assert different <= {twin, f"{task}/output/result.txt"}  # One of the two is a link in it.
    assert (3, 3) == (len(journals), len(report.journals))
    assert set(ids) < set(report.journals)
    for name in journals:
        assert (orch.root / name).read_bytes() == packed[name]
    assert (len(packed), False, 0o600) == (
        report.files,
        report.removed,
        target.stat().st_mode & 0o777,
    )
    assert target.stat().st_size == report.size


def test_a_removed_task_is_gone_and_still_counted(fake_scene, target):
    orch, task, _ = past.end_some(fake_scene, 2, written=b"a line\n")
    _, other, remaining = past.end_some(fake_scene)
    expected, before = on_disk(orch.root / task, below=orch.root), orch.stats()
    totals = fake_scene.world.totals()

    report = orch.export_task(task, target, remove=True)

    packed = contents(target)
    assert expected == {name: packed[name] for name in packed if name.startswith("TASK-")}
    assert (True, ()) == (report.removed, report.left)
    assert [other] == [each.id for each in orch.tasks()]
    assert remaining == past.journals(orch.root)
    assert before.cleanups == orch.stats().cleanups
    assert totals["total_tasks"] == fake_scene.world.totals()["total_tasks"]
    assert [] == fake_scene.world.litter()
    with pytest.raises(NotFound):
        orch.task(task)


def test_the_removal_of_a_task_without_agents_frees_its_key(fake_scene, target):
    orch = fake_scene.orchestrator()
    task = orch.create_task("nothing yet", key="once").id
    assert task in fake_scene.world.totals()["tasks"]

    orch.export_task(task, target, remove=True)

    assert {} == fake_scene.world.totals()["tasks"]
    assert 1 == fake_scene.world.totals()["total_tasks"]
    assert task != orch.create_task("nothing yet", key="once").id


def test_an_exported_task_can_be_unpacked_into_its_root(fake_scene, target):
    orch, task, [agent] = past.end_some(fake_scene, written=b"a line\n")
    end = orch.terminate(agent)
    orch.export_task(task, target, remove=True)

    with tarfile.open(target) as tar:
        members = [member for member in tar if member.name.startswith(task)]
        # Python 3.11 before 3.11.4 has no filters, and from 3.14 on none is a warning.
        how = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        tar.extractall(orch.root, members, **how)

    assert "a line\n" == orch.read_output(agent)
    assert {**end.to_dict(), "steps": ()} == orch.terminate(agent).to_dict()


@pytest.mark.parametrize(
    ("name", "compressed"), [("a.tar", False), ("a.tar.gz", True), ("a.tgz", True)]
)
def test_the_name_of_the_target_selects_compression(fake_scene, target, name, compressed):
    orch, task, _ = past.end_some(fake_scene)
    place = target.with_name(name)

    orch.export_task(task, place)

    assert compressed == place.read_bytes().startswith(b"\x1f\x8b")
    assert task in contents(place)


def test_unusual_names_and_contents_are_preserved(fake_scene, target):
    orch, task, _ = past.end_some(fake_scene)
    output = orch.root / task / "output"
    strange = ["a\nb", "-rf", "..x", "ü" * 60, "x" * 255, "tab\t", "*", os.fsdecode(b"\xff\xfe")]
    for name in strange:
        (output / name).write_bytes(os.urandom(3000))
    deep = output.joinpath(*["d" * 100] * 8)
    deep.mkdir(parents=True)
    (deep / "bottom").write_bytes(b"")
    expected = on_disk(orch.root / task, below=orch.root)

    orch.export_task(task, target, remove=True)

    packed = contents(target)
    assert expected == {name: packed[name] for name in packed if name.startswith("TASK-")}


def test_a_socket_is_skipped_and_reported(fake_scene, target):
    orch, task, _ = past.end_some(fake_scene)
    output = orch.root / task / "output"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(output / "s"))

    assert (f"{task}/output/s",) == orch.export_task(task, target).skipped


# --- refusals -----------------------------------------------------------------------------------


def test_a_task_with_a_live_agent_is_refused(fake_scene, target):
    orch, task, _ = past.end_some(fake_scene)
    agent = orch.deploy(task, fake_scene.spec())

    with pytest.raises(TaskRunning, match=agent.id) as refused:
        orch.export_task(task, target, remove=True)
    assert "task-running" == refused.value.code
    assert task in refused.value.hint
    assert not target.exists()
    assert [] == fake_scene.world.torn()


def test_a_task_with_a_stuck_saga_is_refused(fake_scene, target):
    orch, task, _ = past.end_some(fake_scene)
    agent = orch.deploy(task, fake_scene.spec("unkillable"))
    orch.terminate(agent.id)

    with pytest.raises(TaskRunning, match=agent.id):
        orch.export_task(task, target)


def test_a_task_with_an_active_legacy_agent_is_refused(fake_scene, target):
    orch, task, _ = past.end_some(fake_scene)
    path = orch.root / task / "AGENT_REGISTRY.json"
    document = json.loads(path.read_text())
    document["agents"].append({"id": "old-000000-abcdef", "status": "reviewing"})
    path.write_text(json.dumps(document))

    with pytest.raises(TaskRunning, match="old-000000-abcdef"):
        orch.export_task(task, target)


def test_an_unreadable_open_saga_prevents_an_export(fake_scene, target):
    orch, task, _ = past.end_some(fake_scene)
    other = orch.deploy(orch.create_task("another").id, fake_scene.spec())
    journal = orch.root / "sagas" / f"{other.id}.jsonl"
    journal.write_bytes(journal.read_bytes().replace(b'"commit"', b'"c0mmit"'))

    with pytest.raises(TaskRunning, match=other.id):
        orch.export_task(task, target)


def test_an_existing_target_is_never_replaced(fake_scene, target):
    orch, task, _ = past.end_some(fake_scene)
    target.write_text("precious")

    with pytest.raises(InvalidInput, match="is there already"):
        orch.export_task(task, target, remove=True)
    assert ("precious", [task]) == (target.read_text(), [each.id for each in orch.tasks()])


def test_a_target_that_appears_meanwhile_is_not_replaced(fake_scene, target, monkeypatch):
    orch, task, _ = past.end_some(fake_scene)
    original = tarball.read_back

    def meanwhile(fd):
        target.write_text("precious")
        return original(fd)

    monkeypatch.setattr(exporting, "read_back", meanwhile)
    with pytest.raises(InvalidInput, match="is there already"):
        orch.export_task(task, target, remove=True)
    assert ("precious", [task]) == (target.read_text(), [each.id for each in orch.tasks()])
    assert [target.name] == [path.name for path in target.parent.glob("*tar*")]


@pytest.mark.parametrize("nameless", [True, False])
def test_a_killed_export_leaves_nothing_or_what_the_next_one_removes(
    fake_scene, target, monkeypatch, nameless
):
    """Where the file system has files without a name, nothing is left, whatever comes next."""
    orch, task, _ = past.end_some(fake_scene)
    before = sorted(target.parent.iterdir())
    if not nameless:
        monkeypatch.setattr(exporting, "_unnamed_file", lambda _directory: None)
    child = os.fork()
    if child == 0:
        exporting.read_back = lambda _fd: os.kill(os.getpid(), signal.SIGKILL)
        with contextlib.suppress(BaseException):
            orch.export_task(task, target)
        os._exit(1)
    assert signal.SIGKILL == os.WTERMSIG(os.waitpid(child, 0)[1])

    if nameless:
        assert before == sorted(target.parent.iterdir())
    orch.export_task(task, target)
    assert sorted([*before, target]) == sorted(target.parent.iterdir())


@pytest.mark.parametrize("inside", ["{task}/x.tar", "{task}/output/x.tar", "link/x.tar"])
def test_a_target_inside_the_task_is_refused(fake_scene, inside):
    orch, task, _ = past.end_some(fake_scene)
    (orch.root / "link").symlink_to(orch.root / task / "output")

    with pytest.raises(InvalidInput, match="inside"):
        orch.export_task(task, orch.root / inside.format(task=task), remove=True)


@pytest.mark.parametrize("name", ["", ".", "..", "x/", "nowhere/x.tar"])
def test_an_impossible_target_is_refused(fake_scene, name, monkeypatch):
    orch, task, _ = past.end_some(fake_scene)
    monkeypatch.chdir(fake_scene.root.parent)
    (fake_scene.root.parent / "x").mkdir()

    with pytest.raises((InvalidInput, StorageError)):
        orch.export_task(task, name)
    assert [task] == [each.id for each in orch.tasks()]


def test_an_unknown_task_is_refused(fake_scene, target):
    orch = fake_scene.orchestrator()

    with pytest.raises(NotFound):
        orch.export_task("TASK-20250101-000000-00000000", target)
    with pytest.raises(InvalidInput):
        orch.export_task("../../etc", target)


# --- concurrent changes ---------------------------------------------------------------------------


def meanwhile(monkeypatch, act):
    """Call *act* when the file is complete, before the task is removed."""
    original = exporting._new_file

    def then(place):
        with original(place) as fd:
            yield fd
        act()

    monkeypatch.setattr(exporting, "_new_file", contextlib.contextmanager(then))


def test_a_task_that_has_changed_meanwhile_is_not_removed(fake_scene, target, monkeypatch):
    orch, task, _ = past.end_some(fake_scene)
    late = orch.root / task / "output" / "late"
    meanwhile(monkeypatch, lambda: late.write_text("too late to be in it"))

    with pytest.raises(StorageError, match="has changed"):
        orch.export_task(task, target, remove=True)

    assert "too late to be in it" == late.read_text()
    assert ([task], []) == ([each.id for each in orch.tasks()], fake_scene.world.torn())


def test_a_deployment_meanwhile_prevents_the_removal(fake_scene, target, monkeypatch):
    orch, task, _ = past.end_some(fake_scene)
    deployed = []
    meanwhile(monkeypatch, lambda: deployed.append(orch.deploy(task, fake_scene.spec()).id))

    with pytest.raises(TaskRunning, match="is not over"):
        orch.export_task(task, target, remove=True)

    assert [] == fake_scene.world.torn()
    assert orch.terminate(deployed[0]).success
    assert [] == fake_scene.world.leftovers()


def test_a_file_that_changes_during_packing_stops_the_export(fake_scene, target, monkeypatch):
    orch, task, _ = past.end_some(fake_scene)
    path = orch.root / task / "output" / "result"
    path.write_bytes(b"x" * 100_000)
    original = hashlib.file_digest

    def file_digest(*args):
        os.utime(path, (1, 1))
        return original(*args)

    monkeypatch.setattr(hashlib, "file_digest", file_digest)
    with pytest.raises(StorageError, match="changed meanwhile"):
        orch.export_task(task, target, remove=True)
    assert [] == list(target.parent.glob("*tar*"))
    assert path.exists()


def test_a_tar_file_that_reads_back_differently_stops_the_export(fake_scene, target, monkeypatch):
    """A faulty disk is noticed before anything is removed."""
    orch, task, _ = past.end_some(fake_scene, written=b"a line\n" * 1000)
    original = os.fsync

    def lies(fd):
        original(fd)
        name = str(Path(f"/proc/self/fd/{fd}").readlink())
        if ".x.tar." in name or name.endswith("(deleted)"):  # It may have no name yet.
            os.pwrite(fd, b"\0" * 64, os.pread(fd, 1_000_000, 0).index(b"a line\n" * 20))

    monkeypatch.setattr(os, "fsync", lies)
    with pytest.raises(StorageError, match="read back"):
        orch.export_task(task, target.with_name("x.tar"), remove=True)
    monkeypatch.undo()

    assert [task] == [each.id for each in orch.tasks()]
    assert [] == list(target.parent.glob("*tar*"))
