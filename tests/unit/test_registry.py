"""Registries: their documents, and how old, new and damaged ones are handled."""

import json
import os
import stat
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator_core.exceptions import (
    InvalidInput,
    LockTimeout,
    NotFound,
    RegistryDamaged,
    RegistryTooNew,
)
from orchestrator_core.model.layout import Layout
from orchestrator_core.registry import (
    GLOBAL,
    TASK,
    Registry,
    Schema,
    new_global,
)
from orchestrator_core.registry.document import decode, encode
from orchestrator_core.registry.operations import remove_live
from orchestrator_core.system.locks import locked, try_lock


def agent(name, status="running", **more):
    return {"id": name, "type": "bench", "status": status, **more}


@pytest.fixture
def registry(tmp_path):
    """A task's registry with one agent in it."""
    made = Registry(tmp_path / "AGENT_REGISTRY.json", schema=TASK)
    made.create({"task_id": "TASK-1", "agents": [agent("a-1")]})
    return made


@pytest.fixture
def everything(tmp_path):
    """The global registry of an empty root."""
    made = Registry(Layout(tmp_path).global_registry, schema=GLOBAL)
    made.create(new_global())
    return made


def update(registry, change):
    with registry.transaction() as document:
        change(document)


def mode(path):
    return stat.S_IMODE(path.lstat().st_mode)


def quarantined_copies(registry):
    return sorted(registry.path.parent.glob(f"{registry.path.name}.damaged-*"))


# --- reading and changing ---------------------------------------------------------------------


def test_a_committed_change_is_read(registry):
    with registry.transaction() as document:
        document["agents"].append(agent("a-2"))
    assert ["a-1", "a-2"] == [entry["id"] for entry in registry.read()["agents"]]


def test_a_change_is_durable_after_the_block_and_the_next_update_need_not_wait_for_that(
    registry, monkeypatch
):
    """The directory is synced last, after the lock is released."""
    synced = []
    real = os.fsync

    def fsync(fd):
        target = Path(f"/proc/self/fd/{fd}").readlink()
        lock = os.open(f"{registry.path}.lock", os.O_RDWR)
        synced.append((target == registry.path.parent, try_lock(lock)))
        os.close(lock)
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    update(registry, lambda document: document.update(x=1))
    assert [(False, False), (True, True)] == synced


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_an_exception_in_the_block_aborts_the_transaction(registry, error):
    """Nothing is written, and the lock is released."""
    before = registry.path.read_bytes()

    def change(document):
        document["agents"].clear()
        raise error

    with pytest.raises(error):
        update(registry, change)
    assert before == registry.path.read_bytes()
    update(registry, lambda document: document.update(x=1))


def test_a_return_from_the_block_commits_the_transaction(registry):
    def first_agent():
        with registry.transaction() as document:
            document["agents"].append(agent("a-2"))
            return document["agents"][0]["id"]

    assert "a-1" == first_agent()
    assert ["a-1", "a-2"] == [entry["id"] for entry in registry.read()["agents"]]


def test_a_change_that_changes_nothing_writes_nothing(registry):
    before = registry.path.stat()
    update(registry, lambda _: None)
    after = registry.path.stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_the_file_is_private_and_keeps_a_mode_given_to_it(registry):
    assert 0o600 == mode(registry.path)
    registry.path.chmod(0o640)
    update(registry, lambda document: document.update(x=1))
    assert 0o640 == mode(registry.path)


def test_creating_again_changes_nothing(registry):
    assert not registry.create({"task_id": "other", "agents": []})
    assert "TASK-1" == registry.read()["task_id"]


def test_a_missing_registry_is_not_found(tmp_path):
    for path in (tmp_path / "none.json", tmp_path / "gone" / "none.json"):
        registry = Registry(path, schema=TASK)
        for ask in (registry.read, lambda r=registry: update(r, lambda _: None)):
            with pytest.raises(NotFound, match="there is no task"):
                ask()
        assert registry.read_or_none() is None
    assert not (tmp_path / "gone").exists()


def test_an_update_waits_no_longer_than_its_timeout_and_a_reader_does_not_wait(registry):
    impatient = Registry(registry.path, schema=TASK, lock_timeout_s=0.02)
    caught = []

    def wait_elsewhere():
        try:
            update(impatient, lambda _: None)
        except LockTimeout as timeout:
            caught.append(str(timeout))

    with locked(registry.path, timeout_s=1, what="it"):
        thread = threading.Thread(target=wait_elsewhere)
        thread.start()
        thread.join()
        assert "TASK-1" == impatient.read()["task_id"]
    assert f"pid {os.getpid()} " in caught[0]
    assert caught[0].startswith("task registry")


def test_a_nested_transaction_is_refused_at_once(registry, everything):
    with pytest.raises(AssertionError, match="holds"):
        update(registry, lambda _: update(everything, lambda _: None))


@pytest.mark.parametrize("value", [object(), "\ud83d", {1: object()}], ids=["object", "text", "in"])
def test_a_value_that_json_cannot_hold_is_refused_and_nothing_is_written(registry, value):
    before = registry.path.read_bytes()
    with pytest.raises(InvalidInput):
        update(registry, lambda document: document.update(x=value))
    assert before == registry.path.read_bytes()


@pytest.mark.parametrize("agents", [None, {}, [1], "x"])
def test_a_change_that_would_break_the_document_is_refused(registry, agents):
    before = registry.path.read_bytes()
    with pytest.raises(TypeError, match="would break"):
        update(registry, lambda document: document.update(agents=agents))
    assert before == registry.path.read_bytes()


# --- the layout -------------------------------------------------------------------------------


def test_the_layout_has_one_agent_a_line_with_a_space_after_each_colon(registry):
    update(registry, lambda document: document["agents"].append(agent("a-2", note="ä, b: {c}")))
    assert (
        '{\n  "schema_version": 1,\n  "task_id": "TASK-1",\n  "agents": [\n'
        '    {"id": "a-1", "type": "bench", "status": "running"},\n'
        '    {"id": "a-2", "type": "bench", "status": "running", "note": "ä, b: {c}"}\n'
        '  ],\n  "total_spawned": 2,\n  "active_count": 2,\n  "completed_count": 0\n}\n'
    ) == registry.path.read_text()


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), inner)
    ),
    max_leaves=8,
)
ENTRY = st.dictionaries(st.text("abc_", min_size=1, max_size=4), JSON, max_size=3)
RESERVED = {"schema_version", "agents"}
UNKNOWN = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=6).filter(
        lambda n: n not in RESERVED
    ),
    JSON,
    max_size=4,
)


@settings(deadline=None)
@given(UNKNOWN, st.lists(ENTRY, max_size=4))
def test_any_document_is_read_as_it_was_written_in_its_order(unknown, agents):
    """Unknown fields survive, whatever they are."""
    document = {"schema_version": 1, **unknown, "agents": agents}
    data = encode(document, TASK)
    again, version = decode(data, TASK)
    assert (document, 1) == (again, version)
    assert list(document) == list(again)
    assert document == json.loads(data)
    assert data == encode(again, TASK)


# --- counters ---------------------------------------------------------------------------------


def test_a_tasks_counters_are_those_of_its_agents(registry):
    update(
        registry,
        lambda document: document["agents"].extend(
            agent(f"x-{status}", status)
            for status in (
                *("working", "blocked", "reviewing", "odd", "completed", "failed", "error"),
                *("terminated", "killed", "phase_completed", "COMPLETED"),
            )
        ),
    )
    document = registry.read()
    assert (12, 5, 7) == tuple(
        document[name] for name in ("total_spawned", "active_count", "completed_count")
    )


def test_drifted_counters_are_right_after_the_next_update(registry):
    text = registry.path.read_text().replace('"active_count": 1', '"active_count": 17')
    registry.path.write_text(text)
    update(registry, lambda _: None)
    assert 1 == registry.read()["active_count"]


def enter(document, task_id, agent_id):
    document["agents"][agent_id] = {"task_id": task_id}


def leave(document, agent_id, status):
    if document["agents"].pop(agent_id, None):
        document["ended"][status] = document["ended"].get(status, 0) + 1


def totals(everything):
    document = everything.read()
    names = ("total_tasks", "active_tasks", "total_agents_spawned", "active_agents")
    return tuple(document[name] for name in names)


def test_the_global_totals_include_entries_that_are_no_longer_listed(everything):
    task = {"description": "d", "status": "INITIALIZED"}
    update(everything, lambda document: document["tasks"].update(t1=dict(task), t2=dict(task)))
    assert (2, 2, 0, 0) == totals(everything)
    update(everything, lambda document: enter(document, "t1", "a"))
    assert (2, 2, 1, 1) == totals(everything)
    update(everything, lambda document: leave(document, "a", "completed"))
    update(everything, lambda document: leave(document, "a", "completed"))
    assert (2, 1, 1, 0) == totals(everything)
    document = everything.read()
    assert (["t2"], {}, {"completed": 1}, 1) == (
        list(document["tasks"]),
        document["agents"],
        document["ended"],
        document["past_tasks"],
    )
    update(everything, lambda document: enter(document, "t1", "b"))
    assert (2, 2, 2, 1) == totals(everything)


def test_a_task_with_a_key_stays_listed_so_that_the_key_finds_it(everything):
    update(everything, lambda document: document["tasks"].update(t1={"key": "k"}))
    update(everything, lambda document: enter(document, "t1", "a"))
    update(everything, lambda document: leave(document, "a", "failed"))
    assert ["t1"] == list(everything.read()["tasks"])


def test_the_global_document_does_not_grow_with_the_past(everything):
    sizes = []
    for number in range(30):
        task, name = f"TASK-{number:03}", f"a-{number:03}"
        update(everything, lambda d, t=task: d["tasks"].update({t: {"status": "INITIALIZED"}}))
        update(everything, lambda d, t=task, n=name: enter(d, t, n))
        update(everything, lambda d, n=name: leave(d, n, "completed"))
        sizes.append(everything.path.stat().st_size)
    assert sizes[-1] - sizes[9] <= 1 * 4  # a digit more in each total


# --- versions ---------------------------------------------------------------------------------

OLD_TASK = {
    "task_id": "TASK-20251001-101010-0a1b2c3d",
    "task_description": "Find the slow query",
    "created_at": "2025-10-01T10:10:10.123456",
    "status": "INITIALIZED",
    "agents": [
        agent("a-101010-aaaaaa", "working", tmux_session="agent_a-101010-aaaaaa"),
        agent("b-101011-bbbbbb", "completed", completed_at="2025-10-01T11:00:00.1"),
    ],
    "agent_hierarchy": {"orchestrator": ["a-101010-aaaaaa", "b-101011-bbbbbb"]},
    "max_agents": 45,
    "total_spawned": 9,
    "active_count": -3,
    "completed_count": 12,
    "spiral_checks": {"enabled": True, "last_check": "2025-10-01T10:10:10"},
}


@pytest.fixture
def old(tmp_path):
    """A task's registry as the old system wrote it."""
    path = tmp_path / "AGENT_REGISTRY.json"
    path.write_text(json.dumps(OLD_TASK, indent=2))
    path.chmod(0o644)
    return Registry(path, schema=TASK)


def test_a_registry_of_the_old_system_is_read_as_it_is(old):
    before = old.path.read_bytes()
    assert {**OLD_TASK, "schema_version": 1} == old.read()
    assert before == old.path.read_bytes()


def test_the_first_update_of_an_old_registry_migrates_it_and_keeps_its_last_state(old):
    before = old.path.read_bytes()
    update(old, lambda document: document.update(priority="P1"))
    document = json.loads(old.path.read_text())
    assert (1, 2, 1, 1) == tuple(
        document[name]
        for name in ("schema_version", "total_spawned", "active_count", "completed_count")
    )
    assert OLD_TASK["spiral_checks"] == document["spiral_checks"]
    assert list(OLD_TASK) == list(document)[: len(OLD_TASK)]
    assert before == old.path.with_name("AGENT_REGISTRY.json.v0").read_bytes()
    update(old, lambda document: document.update(priority="P2"))
    assert before == old.path.with_name("AGENT_REGISTRY.json.v0").read_bytes()


@pytest.fixture
def old_everything(tmp_path):
    """The global registry as the old system wrote it, with ended agents still in it."""
    everything = Registry(Layout(tmp_path).global_registry, schema=GLOBAL)
    everything.path.parent.mkdir()
    record = {"task_id": "t1", "type": "x"}
    document = {
        "created_at": "2025-10-01T10:10:10",
        "total_agents_spawned": 77,
        "max_concurrent_agents": 20,
        "tasks": {"t1": {"description": "d", "created_at": "2025-10-01", "status": "INITIALIZED"}},
        "agents": {"a": record, "b": {**record, "status": "completed"}, "c": {"status": "killed"}},
    }
    everything.path.write_text(json.dumps(document))
    return everything


def test_the_old_systems_global_entries_stay_as_they_are_until_an_agent_ends(old_everything):
    """A new task beside them changes only the totals, which are then correct."""
    before = json.loads(old_everything.path.read_text())
    update(old_everything, lambda document: document["tasks"].update(t2={"key": None}))
    after = old_everything.read()
    assert (before["agents"], before["tasks"]["t1"]) == (after["agents"], after["tasks"]["t1"])
    assert (2, 2, 3, 1) == totals(old_everything)
    assert 20 == after["max_concurrent_agents"]


def test_the_old_systems_ended_agents_are_counted_when_the_next_agent_ends(old_everything):
    update(old_everything, lambda document: remove_live(document, "a", "failed"))
    document = old_everything.read()
    assert ({}, {}, {"failed": 1, "completed": 1, "killed": 1}, 1) == (
        document["agents"],
        document["tasks"],
        document["ended"],
        document["past_tasks"],
    )
    assert (1, 0, 3, 0) == totals(old_everything)


def test_a_rolled_back_agent_leaves_the_old_systems_ended_agents_where_they_are(old_everything):
    update(old_everything, lambda document: document["agents"].update(n={"task_id": "t1"}))
    update(old_everything, lambda document: remove_live(document, "n", None))
    assert ["a", "b", "c"] == list(old_everything.read()["agents"])


def test_values_that_only_pythons_json_writes_are_read(tmp_path):
    """NaN, and half of an emoji: the old system wrote both."""
    path = tmp_path / "AGENT_REGISTRY.json"
    path.write_text('{"agents": [{"id": "a", "progress": NaN, "prompt": "cut \\ud83d"}]}')
    registry = Registry(path, schema=TASK)
    update(registry, lambda document: document.update(x=1))
    assert "cut ?" == json.loads(path.read_text())["agents"][0]["prompt"]


def test_each_migration_runs_once_and_in_order(tmp_path):
    def adding(name):
        return lambda document: document.setdefault("trail", []).append(name)

    def schema(*migrations):
        return Schema(name="thing", entry_fields={}, derive=lambda _: None, migrations=migrations)

    path = tmp_path / "thing.json"
    path.write_text('{"kept": 1}')
    update(Registry(path, schema=schema(adding("to 1"))), lambda _: None)
    newer = Registry(path, schema=schema(adding("to 1"), adding("to 2"), adding("to 3")))
    assert ["to 1", "to 2", "to 3"] == newer.read()["trail"]
    update(newer, lambda _: None)
    update(newer, lambda _: None)
    assert {"kept": 1, "trail": ["to 1", "to 2", "to 3"], "schema_version": 3} == newer.read()


def test_a_registry_of_a_newer_release_is_left_alone(registry):
    registry.path.write_text('{"schema_version": 2, "agents": "of another shape"}')
    for ask in (registry.read, lambda: update(registry, lambda document: document.clear())):
        with pytest.raises(RegistryTooNew, match=r"AGENT_REGISTRY\.json.*version 2"):
            ask()
    assert '{"schema_version": 2, "agents": "of another shape"}' == registry.path.read_text()
    assert [] == quarantined_copies(registry)


# --- damage -----------------------------------------------------------------------------------

DAMAGED = {
    "empty": b"",
    "zeros": b"\0" * 300,
    "not JSON": b"<html>",
    "an array": b"[]",
    "text": b'"x"',
    "bad UTF-8": b'{"agents": [], "x": "\xff"}',
    "two documents": b'{"agents": []}{"agents": []}',
    "agents an object": b'{"agents": {}}',
    "agents null": b'{"agents": null}',
    "an agent a number": b'{"agents": [1]}',
    "version text": b'{"schema_version": "1", "agents": []}',
    "version true": b'{"schema_version": true, "agents": []}',
    "version negative": b'{"schema_version": -1, "agents": []}',
    "no agents": b'{"schema_version": 1}',
    "nested too deep": b"[" * 100_000,
}


@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED)
@pytest.mark.parametrize("ask", ["read", "update", "create"])
def test_a_damaged_registry_is_quarantined_and_reported_once_and_an_error_until_it_is_repaired(
    registry, data, ask
):
    reported = []
    registry = Registry(registry.path, schema=TASK, on_damage=reported.append)
    asks = {
        "read": registry.read,
        "update": lambda: update(registry, lambda _: None),
        "create": lambda: registry.create({"agents": []}),
    }
    good = registry.path.read_bytes()
    registry.path.write_bytes(data)
    for _ in range(2):
        with pytest.raises(RegistryDamaged) as damage:
            asks[ask]()
    [quarantined] = quarantined_copies(registry)
    assert data == quarantined.read_bytes()
    assert [(registry.path, quarantined)] == [(aside.registry, aside.kept) for aside in reported]
    assert str(quarantined) in str(damage.value)
    assert registry.read_or_none() is None
    # The repair that the hint describes.
    quarantined.write_bytes(good)
    quarantined.rename(registry.path)
    assert "TASK-1" == registry.read()["task_id"]


def test_every_truncation_is_damage(registry):
    whole = registry.path.read_bytes()
    for length in range(len(whole) - 2):
        registry.path.write_bytes(whole[:length])
        with pytest.raises(RegistryDamaged):
            registry.read()
        [quarantined] = quarantined_copies(registry)
        assert whole[:length] == quarantined.read_bytes()
        quarantined.unlink()


def test_a_directory_in_the_registrys_place_is_quarantined_with_its_content(registry):
    registry.path.unlink()
    registry.path.mkdir()
    (registry.path / "precious").touch()
    with pytest.raises(RegistryDamaged):
        registry.read()
    [quarantined] = quarantined_copies(registry)
    assert (quarantined / "precious").exists()


def test_a_symlink_in_the_registrys_place_is_quarantined_and_not_followed(registry, tmp_path):
    target = tmp_path / "target"
    registry.path.rename(target)
    registry.path.symlink_to(target)
    before = target.read_bytes()
    for ask in (registry.read, lambda: update(registry, lambda document: document.clear())):
        with pytest.raises(RegistryDamaged):
            ask()
    assert before == target.read_bytes()
    [quarantined] = quarantined_copies(registry)
    assert quarantined.is_symlink()


@pytest.mark.parametrize("what", ["lock", "queue.lock", "settle.lock"])
def test_a_fifo_in_the_place_of_a_registrys_lock_stops_no_update(registry, what):
    path = registry.path.with_name(f"{registry.path.name}.{what}")
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    update(registry, lambda document: document.update(key="new"))
    assert "new" == registry.read()["key"]


@pytest.mark.parametrize("what", ["next-0", "next-1", "settling"])
def test_a_directory_in_the_place_of_a_version_stops_no_update(registry, what):
    path = registry.path.with_name(f".{registry.path.name}.{what}")
    path.unlink(missing_ok=True)
    path.mkdir()
    for number in range(4):
        update(registry, lambda document, number=number: document.update(key=f"k{number}"))
    assert "k3" == registry.read()["key"]


def test_a_damaged_registry_is_rebuilt_and_lists_its_damaged_files(registry):
    reported = []
    rebuilt = Registry(
        registry.path,
        schema=TASK,
        rebuild=lambda: {"task_id": "TASK-1", "agents": [agent("found")]},
        on_damage=reported.append,
    )
    registry.path.write_bytes(b"")
    document = rebuilt.read()
    [quarantined] = quarantined_copies(registry)
    assert (["found"], [quarantined.name], 1) == (
        [entry["id"] for entry in document["agents"]],
        document["damaged"],
        document["active_count"],
    )
    update(rebuilt, lambda document: document.update(x=1))
    assert [quarantined.name] == rebuilt.read()["damaged"]
    assert 1 == len(reported)


def test_a_rebuild_that_fails_is_tried_again(registry):
    answers = iter([None, {"agents": [agent("found")]}])
    rebuilt = Registry(registry.path, schema=TASK, rebuild=lambda: next(answers))
    registry.path.write_bytes(b"")
    with pytest.raises(RegistryDamaged):
        rebuilt.read()
    assert ["found"] == [entry["id"] for entry in rebuilt.read()["agents"]]
    assert 1 == len(quarantined_copies(registry))


def test_a_disk_that_damages_every_write_is_an_error_and_is_not_filled_with_copies(
    tmp_path, monkeypatch
):
    def fsync(fd):
        path = Path(f"/proc/self/fd/{fd}").readlink()
        if path.is_file() and path.suffix != ".lock":
            os.truncate(path, 10)

    registry = Registry(
        tmp_path / "AGENT_REGISTRY.json", schema=TASK, rebuild=lambda: {"agents": []}
    )
    registry.path.write_text("damaged")
    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(RegistryDamaged, match="damaged again as soon as it was repaired"):
        update(registry, lambda _: None)
    assert len(quarantined_copies(registry)) < 5


def test_both_schemas_write_version_1():
    assert (1, 1) == (TASK.version, GLOBAL.version)
