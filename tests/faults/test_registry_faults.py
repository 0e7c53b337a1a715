"""
A registry under faults: killed or refused at every system call, and under contention.

The test forks a process whose ``os`` functions are replaced. Each may kill the process,
before or after its effect, or fail.
"""

import contextlib
import errno
import itertools
import json
import multiprocessing
import warnings

import pytest
from child_crashes import each_crash, in_child
from registry_kit import (
    COMPLETE,
    OK,
    REFUSED,
    UNKNOWN,
    add,
    exit_after_refusal,
    litter,
    names,
    registry_in,
    set_x,
)

from orchestrator_core.model.layout import open_root
from orchestrator_core.registry import TASK, Registry
from orchestrator_core.system import move

# --- killed ---------------------------------------------------------------------------------


@pytest.fixture
def places(short_tmp):
    """Return a function that returns a new directory at each call."""
    names = map(str, itertools.count())
    return lambda: short_tmp / next(names)


def test_an_update_killed_at_any_call_has_happened_or_not(tmp_path):
    """The document is the old or the new one. The next update works, and removes leftovers."""
    registry = registry_in(tmp_path)
    registry.create({"agents": []})
    happened = set()
    for crash, before in each_crash(lambda _: add(registry, "killed"), lambda: names(registry)):
        found = names(registry)
        assert found in (before, [*before, "killed"]), crash
        happened.add(found == before)
        add(registry, "next")
        assert [*found, "next"] == names(registry), crash
        assert set() == litter(tmp_path), crash
    assert {True, False} == happened


def test_a_creation_killed_at_any_call_has_happened_or_not(places):
    def create(place):
        registry_in(place).create({"agents": [{"id": "first"}]})

    for crash, place in each_crash(create, places):
        create(place)
        assert ["first"] == names(registry_in(place)), crash
        assert set() == litter(place), crash


def test_a_damaged_document_is_quarantined_once_however_its_finder_dies(places):
    """No kill turns damage into an empty registry."""

    def damaged():
        path = registry_in(places()).path
        path.parent.mkdir()
        path.write_bytes(b'{"agents": [')
        return Registry(path, schema=TASK, rebuild=lambda: {"agents": [{"id": "rebuilt"}]})

    for crash, registry in each_crash(Registry.read, damaged):
        assert ["rebuilt"] == names(registry), crash
        set_x(registry)
        [quarantined] = litter(registry.path.parent)
        assert [quarantined] == registry.read()["damaged"], crash
        assert b'{"agents": [' == registry.path.with_name(quarantined).read_bytes(), crash


def test_a_migration_killed_at_any_call_loses_nothing(places):
    text = json.dumps({"agents": [{"id": "old"}], "x": 1})

    def old():
        registry = registry_in(places())
        registry.path.parent.mkdir()
        registry.path.write_text(text)
        return registry

    for crash, registry in each_crash(lambda registry: add(registry, "new"), old):
        assert names(registry) in (["old"], ["old", "new"]), crash
        add(registry, "next")
        assert 1 == registry.read()["x"], crash
        assert text == registry.path.with_name("AGENT_REGISTRY.json.v0").read_text(), crash
        assert {"AGENT_REGISTRY.json.v0"} == litter(registry.path.parent), crash


def test_a_move_killed_at_any_call_loses_and_doubles_nothing(places):
    """A second move ends with one file, of one name."""

    def logged():
        place = places()
        place.mkdir()
        (place / "log").write_bytes(b"all lines")
        return place

    def move_log(place):
        move.move_no_clobber(place / "log", place / "kept")

    for crash, place in each_crash(move_log, logged):
        with contextlib.suppress(FileNotFoundError):
            move_log(place)
        assert {"kept": b"all lines"} == {e.name: e.read_bytes() for e in place.iterdir()}, crash


def test_a_first_opening_killed_at_any_call_leaves_a_root_that_opens(places):
    for crash, place in each_crash(open_root, places):
        first = open_root(place)
        assert first == open_root(place), crash
        assert {".gitignore", "registry", "sagas", "root.json", "root.json.lock"} == {
            entry.name for entry in place.iterdir()
        }, crash


# --- refused ------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EACCES])
def test_an_update_refused_at_any_call_raises_a_storage_error_or_succeeds(tmp_path, number):
    """The old document stands, or the error's hint names this as unknown."""
    registry = registry_in(tmp_path)
    registry.create({"agents": []})
    refused, calls = 0, 1000
    for call in range(calls):
        before = names(registry)
        code = in_child(lambda n=call: exit_after_refusal(registry, n, number))
        assert code in {OK, REFUSED, UNKNOWN, COMPLETE}, f"call {call}: {code}"
        if code == COMPLETE:
            break
        if code != UNKNOWN:
            assert names(registry) == before + ["added"] * (code == OK), f"call {call}"
        refused += code == REFUSED
        add(registry, "next")
        assert set() == litter(tmp_path), f"call {call}"
    assert refused > 5


# --- under contention ----------------------------------------------------------------------------

PROCESSES, UPDATES = 8, 25


def test_eight_processes_lose_no_update_and_readers_see_no_torn_document(tmp_path):
    """8 x 25 updates make 200 agents, and every read meanwhile gets a whole document."""
    registry = registry_in(tmp_path)
    registry.create({"agents": []})
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    looks = context.SimpleQueue()
    reader = context.Process(target=look, args=(tmp_path, stop, looks))
    writers = [context.Process(target=write, args=(tmp_path, n)) for n in range(PROCESSES)]
    for process in (reader, *writers):
        process.start()
    for process in writers:
        process.join()
    stop.set()
    seen, torn = looks.get()
    reader.join()

    assert [0] * PROCESSES == [process.exitcode for process in writers]
    document = registry.read()
    assert sorted(f"{p}-{u}" for p in range(PROCESSES) for u in range(UPDATES)) == sorted(
        entry["id"] for entry in document["agents"]
    )
    assert PROCESSES * UPDATES == document["total_spawned"]
    assert 0 == torn
    assert seen == sorted(seen)
    assert set() == litter(tmp_path)


def write(directory, me):
    for number in range(UPDATES):
        add(registry_in(directory), f"{me}-{number}")


def look(directory, stop, looks):
    """Read as another tool does, with Python's own json, until *stop* is set."""
    seen, torn = [], 0
    while not stop.is_set():
        try:
            document = json.loads((directory / "AGENT_REGISTRY.json").read_bytes())
            torn += document["total_spawned"] != len(document["agents"])
            seen.append(len(document["agents"]))
        except ValueError:
            torn += 1
    looks.put((seen, torn))


def test_killed_writers_lose_no_update_of_the_others(tmp_path):
    """Half of the processes are killed at work. All updates of the others are there."""
    registry = registry_in(tmp_path)
    registry.create({"agents": []})
    context = multiprocessing.get_context("fork")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        writers = [context.Process(target=write, args=(tmp_path, n)) for n in range(PROCESSES)]
        for process in writers:
            process.start()
    for victim in writers[::2]:
        victim.kill()
    for process in writers:
        process.join()

    found = names(registry)
    survivors = [f"{p}-{u}" for p in range(1, PROCESSES, 2) for u in range(UPDATES)]
    assert set(survivors) <= set(found)
    assert len(found) == len(set(found))
    set_x(registry)
    assert set() == litter(tmp_path)
