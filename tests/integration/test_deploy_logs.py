"""An agent's output, byte for byte, and the records of its end, on real tmux."""

import hashlib
import json
import sys
import threading
from pathlib import Path

import pytest

pytestmark = pytest.mark.tmux

#: Lines of 2,000 bytes with every byte that a terminal would alter.
BURST = r"""
import os, sys, time
odd = bytes(range(1, 10)) + b'\r\x1b[31m\xff\xfe'
line = lambda n: b'{"n": %06d, "x": "' % n + odd + b'x' * 1960 + b'"}\n'
for n in range(1050): os.write(1 + n % 2, line(n))
"""


@pytest.fixture
def orch(scene):
    return scene.orchestrator()


@pytest.fixture
def task(orch):
    return orch.create_task("tried").id


def _archived(scene):
    [log] = scene.root.glob("TASK-*/archive/*_stream.jsonl")
    return log.read_bytes()


def _burst():
    namespace = {"os": type("os", (), {"write": staticmethod(lambda *_: None)})}
    exec(BURST.replace("import os, sys, time\n", ""), namespace)
    return b"".join(namespace["line"](n) for n in range(1050))


@pytest.mark.parametrize("end", ["terminated", "supervisor killed", "session killed", "exits"])
def test_two_megabytes_in_a_burst_are_archived_byte_for_byte(end, scene, orch, task):
    """The archive has standard output and error in the order of the writes, and nothing else."""
    stays = "" if end == "exits" else "open('written', 'w').write('yes')\ntime.sleep(1000)\n"
    gate = scene.gate("written") if stays else None
    agent = orch.deploy(task, scene.spec(sys.executable, "-c", BURST + stays))
    if gate:
        with Path(gate).open() as written:
            assert "yes" == written.read()
    if end == "terminated":
        orch.terminate(agent.id)
    elif end == "supervisor killed":
        [pane] = scene.world.panes(agent.id)
        scene.kill(pane)
    elif end == "session killed":
        scene.world.tmux("kill-session", "-t", f"=agent_{agent.id}")
    assert orch.wait(agent.id, timeout_s=20).success

    assert hashlib.md5(_burst()).digest() == hashlib.md5(_archived(scene)).digest()


def test_no_written_line_is_lost_when_an_agent_is_killed_at_full_speed(scene, orch, task):
    """The agent counts as fast as it can. The archive has an unbroken count."""
    count = "import os, itertools\nfor n in itertools.count(): os.write(1, b'%d\\n' % n)"
    agent = orch.deploy(task, scene.spec(sys.executable, "-c", count))
    [log] = scene.root.glob("TASK-*/logs/*_stream.jsonl")
    scene.follow(log, until=b"\n20000\n")
    orch.terminate(agent.id)

    lines = _archived(scene).split(b"\n")
    assert b"" == lines.pop()
    assert [b"%d" % n for n in range(len(lines))] == lines


def test_an_archive_is_never_overwritten(scene, orch, task):
    """A second end finds the first end's archive, changes nothing, and counts nothing twice."""
    agent = orch.deploy(task, scene.spec("sh", "-c", "seq 20; exec sleep 1000"))
    [log] = scene.root.glob("TASK-*/logs/*_stream.jsonl")
    scene.follow(log, until=b"20\n")
    first = orch.terminate(agent.id)
    before = scene.world.snapshot()

    again = [orch.terminate(agent.id), orch.report_progress(agent.id, "failed").end]
    late = orch.report_progress(agent.id, "working")
    found = orch.report_finding(agent.id, "too late")

    assert [first] * 4 == [*again, late.end, found.end]
    assert [False] * 2 == [late.recorded, found.recorded]
    assert before == scene.world.snapshot()
    assert "terminated" == orch.agent(agent.id).status
    assert 20 == len(orch.read_output(agent.id).splitlines())


def test_a_foreign_file_in_the_archive_keeps_its_name_and_content(scene, orch, task):
    """A file with the log's name is not replaced. The log gets another name, and is found."""
    agent = orch.deploy(task, scene.spec("sh", "-c", "echo mine; exec sleep 1000"))
    [log] = scene.root.glob("TASK-*/logs/*_stream.jsonl")
    scene.follow(log, until=b"mine")
    other = log.parent.parent / "archive" / log.name
    other.write_text("theirs")

    end = orch.terminate(agent.id)

    assert "theirs" == other.read_text()
    assert "mine\n" == orch.read_output(agent.id)
    assert str(other) not in end.archived_files


def test_an_end_that_keeps_no_logs_archives_nothing(scene, orch, task):
    agent = orch.deploy(task, scene.spec("echo", "hello"))
    orch.report_finding(agent.id, "found")

    end = orch.terminate(agent.id, keep_logs=False)

    # The agent may have finished by itself first. Then its logs are still there.
    if end.status == "terminated":
        assert ([], "") == (scene.world.files("TASK-*/archive/*"), orch.read_output(agent.id))
    assert [] == scene.world.leftovers()


def test_the_output_can_be_read_at_any_time(scene, orch, task):
    """Before, during and after the archiving, a reader gets all of it."""
    agent = orch.deploy(task, scene.spec("sh", "-c", "seq 1000; exec sleep 1000"))
    [log] = scene.root.glob("TASK-*/logs/*_stream.jsonl")
    whole = scene.follow(log, until=b"\n1000\n").decode()
    seen, over = [], threading.Event()

    def read():
        while not over.is_set():
            seen.append(orch.read_output(agent.id))

    reader = threading.Thread(target=read)
    reader.start()
    orch.terminate(agent.id)
    over.set()
    reader.join()

    assert {whole} == {*seen, orch.read_output(agent.id)}
    assert "999\n1000\n" == orch.read_output(agent.id, tail=2)
    assert "" == orch.read_output(agent.id, tail=0)


def test_progress_findings_and_the_end_are_stored_with_the_task(scene, orch, task):
    """The archive has the reports; the record has the end and its report."""
    agent = orch.deploy(task, scene.spec())
    orch.report_progress(agent.id, "working", message="half\nway", progress=50)
    orch.report_finding(agent.id, "a bug", severity="high", data={"line": 7})

    end = orch.report_progress(agent.id, "completed", message="all done", progress=100).end

    [progress] = scene.root.glob("TASK-*/archive/*_progress.jsonl")
    lines = [json.loads(line) for line in progress.read_text().splitlines()]
    assert [("working", "half\nway", 50), ("completed", "all done", 100)] == [
        (line["status"], line["message"], line["progress"]) for line in lines
    ]
    [findings] = scene.root.glob("TASK-*/archive/*_findings.jsonl")
    assert {"line": 7} == json.loads(findings.read_text())["data"]
    record = scene.world.records()[agent.id]
    assert ("completed", 100) == (record["status"], record["progress"])
    result = record["auto_cleanup_result"]
    asked = {"tmux_session_killed", "prompt_file_deleted", "log_files_archived"}
    assert {True} == {result[name] for name in asked | {"success", "verified_no_zombies"}}
    assert ([], sorted(end.archived_files)) == (result["errors"], sorted(result["archived_files"]))
    assert record["auto_cleanup_error"] is None
    assert record["auto_cleanup_timestamp"]


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("exit 0", ("completed", 0, None)),
        ("exit 3", ("failed", 3, None)),
        ("kill -SEGV $$", ("failed", None, 11)),
        ("kill -TERM $$", ("failed", None, 15)),
    ],
)
def test_an_exit_is_recorded_with_its_code_or_signal(script, expected, scene, orch, task):
    """An agent that a signal killed is not 'completed'."""
    agent = orch.deploy(task, scene.spec("sh", "-c", script))
    end = orch.wait(agent.id, timeout_s=20)

    seen = orch.agent(agent.id)
    assert expected == (seen.status, seen.exit_code, seen.exit_signal)
    assert expected == (end.status, end.exit_code, end.exit_signal)


def test_the_first_terminal_status_is_final(scene, orch, actors, task):
    """Eight processes report eight ends at once. One of them is the end; all get that one."""
    agent = orch.deploy(task, scene.spec())
    statuses = ["completed", "failed", "error", "terminated"] * 2
    reports = actors.do_all(
        [actors.job("report", root=str(scene.root), agent=agent.id, status=s) for s in statuses]
    )

    ends = {one["result"]["end"]["status"] for one in reports}
    assert 1 == len(ends) == sum(scene.world.totals()["ended"].values())
    assert ends == {scene.world.records()[agent.id]["status"]}
    assert 1 == sum(one["result"]["recorded"] for one in reports)
