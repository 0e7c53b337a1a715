"""How records, times and listings of the legacy system are read."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from orchestrator_core.model.layout import Layout
from orchestrator_core.reconcile.legacy.agent import is_legacy, legacy_agent, report_of
from orchestrator_core.reconcile.legacy.default_server import match_format, parse
from orchestrator_core.reconcile.legacy.proof import _differs_in_any_timezone, _matches_start
from orchestrator_core.system.clock import parse_timestamp
from orchestrator_core.system.processes import (
    GracePeriods,
    LocalProcesses,
    OwnershipSelector,
    open_files,
)
from orchestrator_core.system.processes.protocol import FileId

LINE = "4242:$3:1760000000:%{pane}:{pid}:{name}:/tmp/tmux-0/default"


class Context:
    """The part of a root context that reading needs."""

    def __init__(self, root):
        self.layout = Layout(root)


def agents_of(root, *records, **document):
    document["agents"] = list(records)
    found = (legacy_agent(Context(root), document, "TASK-1", record) for record in records)
    return [agent for agent in found if agent is not None and is_legacy(agent.record)]


# --- records --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"id": None},
        {"id": 7},
        {"id": "../x"},
        {"id": "a-1", "tmux_session": "a.b"},
        {"id": "a-1", "tmux_session": "a:b"},
        {"id": "a-1", "tmux_session": "#(touch x)"},
        {"id": "a-1", "tmux_session": ["x"]},
        {"id": "a-1", "key": None, "deadline_at": None},
    ],
)
def test_a_record_with_an_unsafe_name_or_of_this_library_is_no_legacy_agent(tmp_path, record):
    assert [] == agents_of(tmp_path, record)


def test_missing_or_invalid_fields_are_derived_from_the_agents_id(tmp_path):
    odd = {"tracked_files": ["x"], "started_at": 7, "parent": None, "status": None}
    [agent] = agents_of(tmp_path, {"id": "a-1", **odd}, client_cwd=7)
    assert ("agent_a-1", None, "orchestrator", True) == (
        agent.session,
        agent.started_at,
        agent.parent,
        agent.is_active,
    )
    assert tmp_path / "TASK-1/logs/a-1_stream.jsonl" == agent.files.log
    assert (tmp_path.parent,) == agent.places


FOREIGN_PATHS = [
    "/etc/passwd",
    "../TASK-2/logs/a-1_stream.jsonl",
    "AGENT_REGISTRY.json",
    "logs/xa-1_stream.jsonl",
    "logs/a-12_stream.jsonl",
    "archive/a-1_stream.jsonl",
    "link/a-1_stream.jsonl",
    "\0",
]


@pytest.mark.parametrize("name", FOREIGN_PATHS)
def test_a_recorded_path_outside_the_task_or_of_another_agent_is_not_used(tmp_path, name):
    task = tmp_path / "TASK-1"
    task.mkdir()
    (task / "link").symlink_to(tmp_path)
    recorded = {"log_file": name, "prompt_file": str(task / name)}
    [agent] = agents_of(tmp_path, {"id": "a-1", "tracked_files": recorded})
    assert task / "logs/a-1_stream.jsonl" == agent.files.log
    assert task / "agent_prompt_a-1.txt" == agent.files.prompt


def test_a_recorded_end_is_reported_without_its_claim_about_processes(tmp_path):
    claims = {"success": True, "verified_no_zombies": True, "archived_files": ["x", 7]}
    [agent] = agents_of(tmp_path, {"id": "a-1", "status": "killed", "auto_cleanup_result": claims})
    end = report_of(agent)
    assert ("killed", "old system", False, ("x", "7")) == (
        end.status,
        end.by,
        end.verified_no_zombies,
        end.archived_files,
    )
    json.dumps(end.to_dict())


# --- times ----------------------------------------------------------------------------------------


def test_a_time_without_a_zone_is_local_and_an_invalid_time_is_unknown(monkeypatch):
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    try:
        assert 1760000000.5 == parse_timestamp("2025-10-09T14:23:20.500000")
        assert 1760000000.0 == parse_timestamp("2025-10-09T08:53:20+00:00")
    finally:
        monkeypatch.undo()
        time.tzset()
    assert [None] * 4 == [
        parse_timestamp(each) for each in (None, 7, "yesterday", "0001-01-01T00:00:00")
    ]


@pytest.mark.parametrize(
    ("apart_s", "matches", "differs"),
    [
        (0, True, False),
        (-59, True, False),
        (61, False, True),
        (600, False, True),
        (3600, False, False),  # an hour: a zone, or summer time
        (-3630, False, False),
        (5.5 * 3600, False, False),
        (3600 + 120, False, True),
        (40 * 86400, False, True),
    ],
)
def test_two_times_match_or_differ_or_are_a_time_zone_apart(apart_s, matches, differs):
    at = 1760000000.0
    assert (matches, differs) == (
        _matches_start(at + apart_s, at),
        _differs_in_any_timezone(at + apart_s, at),
    )
    assert (False, False) == (_matches_start(at, None), _differs_in_any_timezone(at, None))


# --- listings -------------------------------------------------------------------------------------


def test_a_listing_is_parsed_by_session_with_the_oldest_pane_first():
    lines = [LINE.format(pane=pane, pid=pid, name="a") for pane, pid in ((7, 70), (3, 30))]
    [session] = parse([*lines, "", "x", LINE.format(pane=1, pid=1, name="a:b")])
    assert ("a", (30, 70), 3, 4242, 1760000000) == (
        session.name,
        session.panes,
        session.number,
        session.server_pid,
        session.created,
    )
    assert all(fact in match_format(session) for fact in ("4242", "$3", "1760000000", "<30>"))


# --- open files ------------------------------------------------------------------------------


@pytest.fixture
def open_file(tmp_path):
    """A file that one process writes, one reads, and one has as its input."""
    path = tmp_path / "log"
    path.touch()
    opened = {
        "writes": {"stdout": path.open("a")},
        "reads": {"stderr": path.open("r")},
        "input": {"stdin": path.open("r")},
    }
    quiet = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    found = {
        name: subprocess.Popen(["sleep", "1000"], **quiet | streams)
        for name, streams in opened.items()
    }
    for streams in opened.values():
        for stream in streams.values():
            stream.close()
    yield path, {name: process.pid for name, process in found.items()}
    for process in found.values():
        process.kill()
        process.wait()


def file_id(path):
    status = path.stat()
    return FileId(status.st_dev, status.st_ino)


def test_writers_readers_and_processes_with_the_file_as_input_are_found(open_file):
    path, pids = open_file
    processes = LocalProcesses()
    found = {holder.process.pid: holder for holder in processes.find_open_files({file_id(path)})}
    assert set(pids.values()) == set(found)
    assert {"writes": (True, False), "reads": (False, False), "input": (False, True)} == {
        name: (found[pid].writes, found[pid].is_input) for name, pid in pids.items()
    }
    us = processes.identify(os.getpid())
    assert all(us in holder.ancestors for holder in found.values())
    assert all(processes.age_s(holder.process) < 60 for holder in found.values())
    assert Path.cwd() == processes.cwd_of(found[pids["reads"]].process)


def test_a_moved_file_is_the_same_and_a_new_file_of_its_name_is_not(open_file):
    path, _ = open_file
    moved = path.rename(path.with_name("moved"))
    path.touch()
    assert () == LocalProcesses().find_open_files({file_id(path)})
    assert 3 == len(LocalProcesses().find_open_files({file_id(moved)}))
    assert () == LocalProcesses().find_open_files(set())


def test_psutil_finds_the_same_processes(open_file):
    path, pids = open_file
    found = {holder.process.pid for holder in open_files._by_psutil({file_id(path)})}
    assert set(pids.values()) == found


# --- owned processes ---------------------------------------------------------------------------


def test_a_process_left_in_the_session_of_an_owned_process_is_ended_too(tmp_path):
    """On SIGTERM the owned process starts another and exits; that one has no owned parent."""
    ready = tmp_path / "ready"
    os.mkfifo(ready)
    leader = subprocess.Popen(
        ["sh", "-c", f"trap 'sleep 1000 & exit' TERM; echo > {ready}; while :; do :; done"],
        start_new_session=True,
    )
    ready.read_text()
    processes = LocalProcesses(containment="scan")
    claim = OwnershipSelector(cookie="of-no-process", extra_roots=(processes.identify(leader.pid),))
    assert [leader.pid] == [each.pid for each in processes.owned_processes(claim)]
    ending = processes.terminate_all(claim, GracePeriods(term_s=0.5, kill_s=2))
    leader.wait()
    assert () == ending.survivors
    left = [pid for pid in Path("/proc").glob("[0-9]*") if _session_of(pid) == leader.pid]
    assert [] == left


def _session_of(entry):
    try:
        stat = (entry / "stat").read_text()
    except OSError:
        return None
    state, *_, sid = stat[stat.rindex(")") + 2 :].split()[:4]
    return None if state in "ZX" else int(sid)
