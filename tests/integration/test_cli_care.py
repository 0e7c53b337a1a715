"""
The maintenance commands: exit codes, JSON, dry runs, and the alerts of failed cleanups.

Most tests run in this process, with real files and a fake terminal. A few run real processes
on real tmux: each read-only command, the sweep of a crash, and an alert from a supervisor.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import logging
import math
import os
import re
import select
import shlex
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path

import pytest
from support import exposition, past
from support.fakes import a_fake_scene
from support.held_step import HeldStep
from support.scene import scene  # noqa: F401 - a fixture

from orchestrator_core.cli import main, root_commands, sweeper_commands
from orchestrator_core.exceptions import CouldNotAsk
from orchestrator_core.operations import alerts, doctor
from orchestrator_core.operations.daemon import heartbeat
from orchestrator_core.operations.sweeper import Sweeper
from orchestrator_core.orchestrator import Orchestrator
from orchestrator_core.reconcile.sweep.findings import ReapResult
from orchestrator_core.system.processes import identity

TOP = Path(__file__).parents[2]
LONG_S = 20


class Line:
    """A command line on a fake's root, with captured output."""

    def __init__(self, fake, capsys):
        self.fake, self.capsys = fake, capsys
        self.root, self.world = fake.root, fake.world

    def __call__(self, *words, root=None):
        """Return the exit code, stdout and stderr."""
        self.capsys.readouterr()
        try:
            code = main(["--root", str(root or self.root), *map(str, words)])
        except SystemExit as usage:
            code = usage.code
        return code, *self.capsys.readouterr()

    def json(self, *words, code=0):
        """Return the --json output of a command, after a check of its exit code."""
        exited, stdout, stderr = self(*words, "--json")
        assert (code, "") == (exited, stderr), stdout
        return json.loads(stdout)


@pytest.fixture
def line(capsys, monkeypatch):
    with a_fake_scene() as made:
        opened = functools.partial(Orchestrator, terminal=made.fake)
        for module in (root_commands, sweeper_commands):
            monkeypatch.setattr(module, "Orchestrator", opened)
        monkeypatch.setattr(Sweeper, "run", lambda _: pytest.fail("it stays, and sweeps"))
        # A resident sweeper adds a handler for stderr, which must not outlive the test.
        monkeypatch.setattr(logging.getLogger("orchestrator_core"), "handlers", [])
        yield Line(made, capsys)


@pytest.fixture
def old(line):
    """The orchestrator and the task of a root with two agents that ended two weeks ago."""
    orch, task, ended = past.end_some(line.fake, 2, written=b"a line\n" * 1000)
    past.age(line.root, 14)
    return orch, task, ended


@pytest.fixture
def a_file(line):
    """A path that cannot be a root."""
    path = line.root.parent / "file"
    path.touch()
    return path


USAGE = [
    "sweep --dry-run --reap",
    "sweep --reap --watch",
    "sweep --silent-after nan",
    "sweep --silent-after -1",
    "sweep --silent-after soon",
    "sweep --interval 5",
    "sweep --watch --silent-after nan",
    "sweep --watch --interval 0",
    "health now",
    "stats --format yaml",
    "gc --reap",
    "export",
    "export ../etc x.tar",
    "doctor --fix",
    "repair --task x --global",
    "repair --task ../etc",
    "repair --dry-run --yes",
]


@pytest.mark.parametrize("words", USAGE)
def test_invalid_arguments_exit_with_2(line, words):
    """The reason is on stderr, and nothing was done."""
    line.fake.orchestrator()
    before = line.world.snapshot()

    code, stdout, stderr = line(*words.split())

    assert (2, "") == (code, stdout)
    assert stderr
    assert before == line.world.snapshot()


@pytest.mark.parametrize("words", ["sweep", "gc", "stats", "repair", "export TASK-1 x.tar"])
def test_an_unusable_root_exits_with_1(line, a_file, words):
    code, stdout, stderr = line(*words.split(), root=a_file)

    assert (1, "") == (code, stdout)
    assert str(a_file) in stderr


# --- sweep ----------------------------------------------------------------------------------------


@pytest.fixture
def lost(line):
    """An agent without a supervisor, beside a live one."""
    orch = line.fake.orchestrator()
    task = orch.create_task("swept").id
    agent = orch.deploy(task, line.fake.spec()).id
    orch.deploy(task, line.fake.spec())
    line.fake.fake.kill_supervisor(f"agent_{agent}")
    return agent


def test_a_sweep_with_findings_exits_with_3_and_after_reaping_with_0(line, lost):
    before = line.world.snapshot()

    for words in (["sweep"], ["sweep", "--dry-run"]):
        code, stdout, stderr = line(*words)
        assert (3, "") == (code, stderr)
        assert re.search(rf"^lost: .*{lost}", stdout)
        assert 2 == stdout.count("\n  proof: ")
        assert "\n  reaping it: " in stdout
        assert "1 found; 1 agents alive" == stdout.splitlines()[-1]
        assert before == line.world.snapshot()

    code, stdout, _ = line("sweep", "--reap")
    assert 0 == code
    assert "\n  reaped: " in stdout
    assert "1 found, 1 reaped, 0 left; 1 agents alive" == stdout.splitlines()[-1]
    assert (0, "nothing found; 1 agents alive\n", "") == line("sweep")
    assert [] == line.world.torn()


def test_a_sweep_has_the_same_content_as_json(line, lost):
    found = line.json("sweep", code=3)
    assert (False, True, [lost]) == (
        found["clean"],
        found["dry_run"],
        [each["agent_id"] for each in found["findings"]],
    )

    reaped = line.json("sweep", "--reap")
    assert (True, False, [True]) == (
        reaped["clean"],
        reaped["dry_run"],
        [each["success"] for each in reaped["reaped"]],
    )
    assert [] == line.json("sweep")["findings"]


@pytest.mark.usefixtures("lost")
def test_a_silent_agent_is_reported_after_the_given_time_and_never_reaped(line):
    line("sweep", "--reap")

    report = line.json("sweep", "--silent-after", "0", code=3)
    assert ["silent"] == [finding["kind"] for finding in report["findings"]]
    assert 0 == line("sweep")[0]
    assert 0 == line("sweep", "--silent-after", "inf")[0]
    code, stdout, _ = line("sweep", "--silent-after", "0", "--reap")
    assert (3, True) == (code, "left alone: it needs your decision" in stdout)
    assert "1 found, 0 reaped, 1 left; 1 agents alive" == stdout.splitlines()[-1]


@pytest.mark.usefixtures("lost")
def test_a_sweep_that_could_not_ask_exits_with_4(line):
    line("sweep", "--reap")
    line.fake.fake.fail("processes.find_tagged", CouldNotAsk("no /proc"), times=math.inf)

    code, stdout, _ = line("sweep", "--reap")

    assert 4 == code
    assert "unknown: " in stdout
    assert "no /proc" in stdout


@pytest.mark.usefixtures("lost")
def test_a_sweep_that_could_not_reap_exits_with_3(line):
    line.fake.fake.fail("processes.terminate_all", CouldNotAsk("not now"), times=math.inf)

    code, stdout, _ = line("sweep", "--reap")

    assert 3 == code
    assert "  NOT reaped: " in stdout
    assert "1 found, 0 reaped, 1 left" in stdout


# --- gc -------------------------------------------------------------------------------------------


def test_a_dry_collection_predicts_the_collection(line, old):
    before, ids = line.world.snapshot(), old[2]

    code, stdout, stderr = line("gc", "--dry-run")
    assert (0, "") == (code, stderr)
    for agent in ids:
        assert re.search(
            rf"^would go \(age\): .*{agent}_stream\.jsonl, 7000 bytes$", stdout, re.MULTILINE
        )
    dry = line.json("gc", "--dry-run")
    assert before == line.world.snapshot()

    wet = line.json("gc")

    assert (True, False) == (dry.pop("dry_run"), wet.pop("dry_run"))
    for report in (dry, wet):
        del report["duration_ms"]
        for items in (report["removed"], report["journals"]):
            items.sort(key=lambda item: item["path"])
    assert dry == wet
    assert ([], []) == (past.archives(line.root), past.journals(line.root))
    code, stdout, _ = line("gc")
    assert 0 == code
    assert stdout.startswith("0 files and 0 journals gone, 0 compressed, 0 bytes freed")


def test_a_collection_with_errors_exits_with_3(line, old, monkeypatch):
    real = os.unlink

    def unlink(name, **how):
        if str(name).startswith(old[2][0]):
            raise PermissionError(13, "Permission denied")
        real(name, **how)

    monkeypatch.setattr(os, "unlink", unlink)
    code, stdout, _ = line("gc")
    monkeypatch.undo()

    assert 3 == code
    assert f"failed: {old[2][0]}" in stdout or re.search(
        rf"^failed: .*{old[2][0]}", stdout, re.MULTILINE
    )


@pytest.mark.usefixtures("old")
def test_unknown_settings_exit_with_2(line):
    past.write_settings(line.root, "[retention]\ndayz = 1\n")
    code, _, stderr = line("gc")
    assert (2, True) == (code, "dayz" in stderr)


@contextlib.contextmanager
def locked(path):
    fd = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


@pytest.mark.usefixtures("old")
def test_a_second_collection_exits_with_4(line):
    with locked(line.root / "registry"):
        assert 4 == line("gc")[0]
        assert "lock-timeout" == line.json("gc", code=4)["code"]
    assert 0 == line("gc")[0]


# --- export ---------------------------------------------------------------------------------------


def test_an_exported_task_stays_or_is_removed(line, old, tmp_path):
    _, task, ids = old
    before = line.world.snapshot()

    code, stdout, stderr = line("export", task, tmp_path / "a.tar.gz")
    assert (0, "") == (code, stderr)
    assert stdout.startswith(f"{task}: ")
    assert before == line.world.snapshot()

    report = line.json("export", task, tmp_path / "b.tar", "--remove")
    assert (task, True) == (report["task_id"], report["removed"])
    assert not (line.root / task).exists()
    for name in ("a.tar.gz", "b.tar"):
        with tarfile.open(tmp_path / name) as tar:
            names = tar.getnames()
        assert all(any(agent in name for name in names) for agent in ids)


def test_an_export_of_an_unknown_task_or_to_an_unknown_directory_exits_with_1(line, old, tmp_path):
    assert 1 == line("export", "TASK-20250101-000000-00000000", tmp_path / "x.tar")[0]
    assert line("export", old[1], tmp_path / "nowhere" / "x.tar")[0] in {1, 2}
    assert [] == list(tmp_path.iterdir())


def test_an_export_to_an_existing_file_exits_with_2(line, old, tmp_path):
    (tmp_path / "x.tar").write_text("precious")
    code, _, stderr = line("export", old[1], tmp_path / "x.tar", "--remove")
    assert (2, True) == (code, "is there already" in stderr)
    assert "precious" == (tmp_path / "x.tar").read_text()


def test_an_export_with_an_incomplete_removal_exits_with_3(line, old, tmp_path, monkeypatch):
    _, task, ids = old
    real = os.unlink

    def unlink(name, **how):
        if ids[0] in str(name) and str(name).endswith("_stream.jsonl"):
            raise PermissionError(13, "Permission denied")
        real(name, **how)

    monkeypatch.setattr(os, "unlink", unlink)
    code, stdout, _ = line("export", task, tmp_path / "x.tar", "--remove")
    monkeypatch.undo()

    assert 3 == code
    assert "still to be removed: " in stdout
    assert 0 == line("gc")[0]
    assert [] == line.world.files("*TASK-*")


def test_an_export_of_an_unfinished_task_exits_with_4(line, old, tmp_path):
    orch, task, _ = old
    agent = orch.deploy(task, line.fake.spec()).id
    report = line.json("export", task, tmp_path / "x.tar", "--remove", code=4)
    assert "task-running" == report["code"]
    assert agent in report["error"]
    assert [] == list(tmp_path.iterdir())


# --- stats ----------------------------------------------------------------------------------------


def test_the_statistics_have_three_formats_and_change_nothing(line, old):
    orch, task, _ = old
    orch.terminate(orch.deploy(task, line.fake.spec("unkillable")).id)
    before = line.world.snapshot()

    code, stdout, stderr = line("stats")
    assert (0, "") == (code, stderr)
    assert "3 cleanups, 66.7% with nothing left" in stdout
    assert ": STUCK" in stdout
    report = line.json("stats")
    assert (3, 1) == (report["total"], len(report["stuck"]))
    assert report == json.loads(line("stats", "--format", "json")[1])
    code, text, stderr = line("stats", "--format", "prometheus")
    assert (0, "") == (code, stderr)
    found = exposition.read(text)
    total = "orchestrator_core_cleanups_total"
    assert [2.0] == exposition.values(found, total, reason="terminate", outcome="clean")
    assert [1.0] == exposition.values(found, "orchestrator_core_sagas_open", state="stuck")

    assert before == line.world.snapshot()


@pytest.mark.usefixtures("old")
def test_a_lost_summary_is_reported(line):
    line("gc")
    (line.root / "registry" / "STATS.json").write_text("{")

    code, stdout, stderr = line("stats")

    assert (0, "") == (code, stderr)
    assert "0 cleanups" in stdout
    quarantined = re.search(r"STATS\.json was damaged, and is kept as (\S+): ", stdout)[1]
    assert "{" == Path(quarantined).read_text()


@pytest.mark.usefixtures("old")
def test_an_unusable_summary_exits_with_1(line):
    line("gc")
    (line.root / "registry" / "STATS.json").write_text('{"bytes_freed": "much"}')
    code, stdout, stderr = line("stats")
    assert (1, "", True) == (code, stdout, "bytes_freed" in stderr)


# --- doctor ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("old")
def test_the_doctor_exits_with_0_unless_a_check_has_failed(line, monkeypatch):
    """A warning does not change the exit code: this machine may have few descriptors."""
    # Other processes of this user may have used up a limit that all share.
    for name in ("file events", "processes", "space"):
        monkeypatch.delitem(doctor.CHECKS, name)
    before = line.world.snapshot()
    assert 0 == line("doctor")[0]
    assert line.json("doctor")["success"]
    assert before == line.world.snapshot()

    (line.root / "registry" / "GLOBAL_REGISTRY.json").write_text("{")

    code, stdout, stderr = line("doctor")
    assert (1, "") == (code, stderr)
    assert re.search(
        r"^failed   registries .* is damaged.*\n +do: orchestrator-core repair",
        stdout,
        re.MULTILINE,
    )
    report = line.json("doctor", code=1)
    assert ["registries"] == [c["name"] for c in report["checks"] if c["verdict"] == "failed"]


def test_the_doctor_works_on_an_unusable_root(line, a_file):
    code, stdout, stderr = line("doctor", root=a_file)
    assert (1, "") == (code, stderr)
    assert re.search(
        r"^failed   root .* is no directory\n +do: .*--root DIR$", stdout, re.MULTILINE
    )


@pytest.mark.usefixtures("old")
def test_the_doctor_prints_a_remedy_below_each_problem_only(line, monkeypatch):
    """An ok check may have the remedy of an optional thing, under another label."""
    monkeypatch.setenv("PATH", str(line.root))  # No tmux, and no agents' programs.
    _, stdout, _ = line("doctor")
    blocks = re.split(r"\n(?=\S)", stdout.rstrip("\n"))

    ok = [block for block in blocks if block.startswith("ok ")]
    assert [] == [block for block in ok if " do: " in block]
    assert [] == [block for block in blocks if block not in ok and "\n" not in block]
    [agents] = [block for block in ok if "\n" in block]
    assert re.search(r"^ok       agents .*\n +if wanted: for claude: npm install", agents)
    assert re.search(r"^failed   tmux .*\n +do: install tmux", stdout, re.MULTILINE)


# --- repair ---------------------------------------------------------------------------------------


@pytest.fixture
def wrong(line, old):
    """A registry in which an ended agent is active."""
    _, task, ids = old
    path = line.root / task / "AGENT_REGISTRY.json"
    document = json.loads(path.read_bytes())
    document["agents"][0].update(status="running")
    path.write_text(json.dumps(document))
    return ids[0]


def test_a_repair_shows_the_differences_before_it_applies_them(line, old, wrong):
    before = line.world.snapshot()

    only = ["--task", old[1]]
    for words in (["repair"], ["repair", "--dry-run"], ["repair", *only]):
        code, stdout, stderr = line(*words)
        assert (3, "") == (code, stderr)
        assert f'~ {wrong}\n    - status: "running"\n    + status: "terminated"\n' in stdout
        assert "nothing was changed: --yes does it" in stdout
        assert before == line.world.snapshot()
    assert (False, True) == tuple(line.json("repair", code=3)[key] for key in ("clean", "dry_run"))

    code, stdout, _ = line("repair", *only, "--yes")

    assert 0 == code
    assert f"~ {wrong}" in stdout
    assert "1 repaired, 0 not, 0 were right" == stdout.splitlines()[-1]
    assert "terminated" == line.world.records()[wrong]["status"]
    assert (0, "nothing to repair: 2 registries agree with the journals\n", "") == line("repair")
    assert line.json("repair", "--yes")["clean"]


@pytest.mark.usefixtures("old")
def test_a_repair_keeps_the_damaged_registry(line):
    path = line.root / "registry" / "GLOBAL_REGISTRY.json"
    path.write_bytes(path.read_bytes()[:100])
    before = line.world.snapshot()
    assert 3 == line("repair")[0]
    assert before == line.world.snapshot()

    code, stdout, _ = line("repair", "--yes")

    quarantined = re.search(r"the damaged one is kept as (\S+)", stdout)[1]
    assert (0, 100) == (code, len(Path(quarantined).read_bytes()))
    assert 0 == line("repair")[0]


@pytest.mark.usefixtures("old")
def test_a_repair_of_an_unknown_task_exits_with_1(line):
    assert 1 == line("repair", "--task", "TASK-20250101-000000-00000000")[0]


@pytest.mark.usefixtures("wrong")
def test_an_incomplete_repair_exits_with_3(line, old, monkeypatch):
    real, before = os.rename, line.world.snapshot()

    def rename(source, target, **how):
        if str(target).endswith("AGENT_REGISTRY.json"):
            raise OSError(28, "No space left on device")
        real(source, target, **how)

    monkeypatch.setattr(os, "rename", rename)
    code, stdout, _ = line("repair", "--task", old[1], "--yes")
    monkeypatch.undo()

    assert 3 == code
    assert "No space left on device" in stdout
    assert "0 repaired, 1 not, 0 were right" == stdout.splitlines()[-1]
    assert before == line.world.snapshot()


# --- health ---------------------------------------------------------------------------------------


def test_the_health_command_exits_with_1_without_a_sweeper_and_with_0_otherwise(line):
    assert 1 == line("health")[0]
    assert [] == list(line.root.parent.glob("ws"))  # Asking makes no root.

    line.fake.orchestrator()
    code, stdout, stderr = line("health")
    assert (1, "") == (code, stderr)
    assert stdout.startswith("NOT healthy: ")
    assert not line.json("health", code=1)["healthy"]

    process = identity.identify(os.getpid())
    beat = heartbeat.Heartbeat(
        pid=process.pid,
        boot_id=process.boot_id,
        started=process.started,
        version="1",
        started_at="then",
        beat_at="now",
        beat_monotonic=time.monotonic(),
        beats_every_s=30.0,
        interval_s=30.0,
        watched=3,
        sweeps=1,
        last_sweep=heartbeat.LastSweep(at="now", duration_ms=1.0),
    )
    heartbeat.write(line.root, beat)

    code, stdout, stderr = line("health")
    assert (0, "") == (code, stderr)
    assert stdout.startswith("healthy: ")
    assert line.json("health")["healthy"]


# --- alerts ---------------------------------------------------------------------------------------


class AlertCommand:
    """An alert command that records its input, and writes to a FIFO afterwards."""

    def __init__(self, place):
        self.place = place
        self.place.mkdir()
        self.fifo = place / "fifo"
        os.mkfifo(self.fifo)
        self.reader = os.open(self.fifo, os.O_RDONLY | os.O_NONBLOCK)

    def script(self, text):
        path = self.place / "page me"
        path.write_text(f"#!/bin/sh\ncd_was=$(pwd)\ncd {shlex.quote(str(self.place))}\n{text}\n")
        path.chmod(0o755)
        return str(path)

    @property
    def writes(self):
        return self.script(
            'env >env; echo "$cd_was" >cwd; echo "$@" >arguments; cat >input; echo >fifo'
        )

    def command(self, *argv, timeout_s=10.0):
        """Return the settings that name a command."""
        return f"[alerts]\ncommand = {json.dumps(list(argv))}\ntimeout_s = {timeout_s}\n"

    def report(self):
        """Return the command's input, when the command has recorded it."""
        self.line()
        return json.loads((self.place / "input").read_text())

    def line(self):
        """Wait for a line on the FIFO; empty if its last writer is dead."""
        waiting = select.poll()  # Unlike select(), it also reports a writer that has closed.
        waiting.register(self.reader, select.POLLIN)
        assert waiting.poll(LONG_S * 1000), "the command did not run"
        return os.read(self.reader, 100)

    def again(self):
        """Prepare for the next command, after the exit of the last one."""
        while self.line():
            pass
        os.close(self.reader)
        self.reader = os.open(self.fifo, os.O_RDONLY | os.O_NONBLOCK)

    def env(self):
        lines = (self.place / "env").read_text().splitlines()
        return dict(each.split("=", 1) for each in lines if "=" in each)

    def read(self, name):
        return (self.place / name).read_text().strip()


@pytest.fixture
def alert_command(short_tmp):
    made = AlertCommand(short_tmp / "w")
    yield made
    os.close(made.reader)


@pytest.fixture
def started(monkeypatch):
    """The reports of all alert commands, which still run."""
    reports, real = [], alerts.run_detached

    def run_detached(command, report, **how):
        reports.append(report)
        real(command, report, **how)

    monkeypatch.setattr(alerts, "run_detached", run_detached)
    return reports


@pytest.fixture
def stuck(line):
    """Return a function that makes a cleanup fail, and returns the agent and the duration."""

    def fail(orch=None):
        orch = orch or line.fake.orchestrator()
        agent = orch.deploy(orch.create_task("t").id, line.fake.spec("unkillable")).id
        begun = time.monotonic()
        assert not orch.terminate(agent, reason="enough").success
        return agent, time.monotonic() - begun

    return fail


def test_an_alert_command_gets_the_facts_and_no_secret(line, stuck, alert_command, monkeypatch):
    monkeypatch.setenv("API_KEY", "secret")
    monkeypatch.setenv("ORCHESTRATOR_COOKIE", "oc_00000000_a-1")
    line.fake.orchestrator()
    past.write_settings(line.root, alert_command.command(alert_command.writes, "--from", "a b"))

    agent, _ = stuck()

    report = alert_command.report()
    assert ("stuck", agent, str(line.root)) == (report["what"], report["subject"], report["root"])
    assert report["errors"]
    assert report["survivors"]
    assert report["retry_at"] > time.time() - 60
    assert (agent, False) == (report["report"]["agent_id"], report["report"]["success"])
    assert {"ORCHESTRATOR_ROOT": str(line.root)}.items() <= alert_command.env().items()
    assert [] == [
        name for name in alert_command.env() if name in {"API_KEY", "ORCHESTRATOR_COOKIE"}
    ]
    assert ("--from a b", "/") == (alert_command.read("arguments"), alert_command.read("cwd"))


def test_a_successful_cleanup_sends_no_alert(line, stuck, alert_command, started):
    line.fake.orchestrator()
    past.write_settings(line.root, alert_command.command(alert_command.writes))

    past.end_some(line.fake, 2)
    assert [] == started
    agent, _ = stuck()

    assert agent == alert_command.report()["subject"]
    assert 1 == len(started)


def test_each_failed_attempt_sends_an_alert(line, stuck, alert_command):
    line.fake.orchestrator()
    past.write_settings(line.root, alert_command.command(alert_command.writes))
    agent, _ = stuck()
    assert agent == alert_command.report()["subject"]
    (alert_command.place / "input").unlink()
    alert_command.again()

    line.fake.orchestrator().recover(force=True)

    assert agent == alert_command.report()["subject"]


def test_a_hung_alert_command_delays_nothing_and_is_killed_in_time(line, stuck, alert_command):
    """The command ignores signals and has a child. The FIFO is closed when both are dead."""
    deaf = "trap '' TERM HUP INT; exec 9>fifo; sleep 1000 & echo here >&9; sleep 1000"
    line.fake.orchestrator()
    past.write_settings(line.root, alert_command.command(alert_command.script(deaf), timeout_s=0.5))

    _, took_s = stuck()

    assert took_s < 5
    assert b"here\n" == alert_command.line()
    assert b"" == alert_command.line()


def test_an_alert_larger_than_a_pipe_is_complete(alert_command):
    large = {"errors": ["x" * 100] * 10_000}
    alerts.run_detached([alert_command.writes], large, timeout_s=10.0, root="/r")
    assert large == alert_command.report()


@pytest.mark.parametrize("program", ["no-such-program", "/no/such/program", "w/page me"])
def test_a_missing_alert_command_is_logged_and_the_cleanup_goes_on(
    line, stuck, alert_command, caplog, monkeypatch, program
):
    monkeypatch.chdir(alert_command.place.parent)  # A relative path is one from /.
    assert alert_command.writes
    line.fake.orchestrator()
    past.write_settings(line.root, alert_command.command(program))

    with caplog.at_level(logging.ERROR, "orchestrator_core"):
        agent, _ = stuck()

    [logged] = [record for record in caplog.records if record.msg == "alert.failed"]
    assert agent == logged.subject
    assert program in logged.error


def test_unreadable_settings_are_logged_and_the_cleanup_goes_on(line, stuck, caplog):
    line.fake.orchestrator()
    past.write_settings(line.root, "[alerts]\ncommandd = []\n")

    with caplog.at_level(logging.ERROR, "orchestrator_core"):
        stuck()

    [logged] = [record for record in caplog.records if record.msg == "alert.failed"]
    assert "commandd" in logged.error


def test_a_callback_gets_the_same_alert_as_the_command(line, stuck, alert_command):
    called, report = threading.Event(), []

    def notify(failed):
        report.append(failed)
        called.set()

    orch = line.fake.orchestrator(on_failed_cleanup=notify)
    past.write_settings(line.root, alert_command.command(alert_command.writes))

    agent, _ = stuck(orch)

    assert called.wait(LONG_S)
    assert agent == report[0].subject
    assert alert_command.report() == json.loads(json.dumps(report[0].to_dict()))


def test_a_hung_callback_delays_nothing(line, stuck):
    over, entered = threading.Event(), threading.Event()

    def hang(_):
        entered.set()
        over.wait(LONG_S)

    _, took_s = stuck(line.fake.orchestrator(on_failed_cleanup=hang))

    assert took_s < 5
    assert entered.wait(LONG_S)
    over.set()


def test_a_callback_that_raises_is_logged_and_the_command_still_runs(
    line, stuck, alert_command, monkeypatch
):
    logged, called = [], threading.Event()

    def emit(_level, event, **values):
        logged.append((event, values))
        called.set()

    monkeypatch.setattr(alerts.log, "emit", emit)

    def broken(_):
        raise ZeroDivisionError

    orch = line.fake.orchestrator(on_failed_cleanup=broken)
    past.write_settings(line.root, alert_command.command(alert_command.writes))

    agent, _ = stuck(orch)

    assert agent == alert_command.report()["subject"]
    assert called.wait(LONG_S)
    assert ("alert.failed", agent) == (logged[-1][0], logged[-1][1]["subject"])


def test_a_new_finding_that_could_not_be_reaped_sends_an_alert(
    line, lost, alert_command, started, monkeypatch
):
    """The next sweep finds it again, and sends no alert."""

    def fail(_, findings, **__):
        return [ReapResult(finding=each, success=False, message="no disk") for each in findings]

    monkeypatch.setattr("orchestrator_core.reconcile.sweep.run.reap", fail)
    past.write_settings(line.root, alert_command.command(alert_command.writes))

    assert 3 == line("sweep", "--reap")[0]
    report = alert_command.report()
    assert 3 == line("sweep", "--reap")[0]

    assert ("reaping", ["no disk"], None) == (report["what"], report["errors"], report["report"])
    assert lost in report["subject"]
    assert 1 == len(started)


# --- real processes, on real tmux -----------------------------------------------------------------


@pytest.fixture
def run(scene):  # noqa: F811 - the fixture
    """Run a command as a process; return its exit code, stdout and stderr."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("ORCHESTR")}
    env |= {"ORCHESTRATOR_ROOT": str(scene.root), "PYTHONPATH": str(TOP)}

    def command(*words):
        done = subprocess.run(
            [sys.executable, "-m", "orchestrator_core", *map(str, words)],
            env=env,
            cwd=scene.work,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    return command


READ_ONLY_COMMANDS = ["doctor", "gc --dry-run", "repair --dry-run", "stats", "sweep --dry-run"]


@pytest.mark.tmux
def test_each_read_only_command_prints_json_and_changes_nothing(scene, run):  # noqa: F811
    orch = scene.orchestrator()
    task = orch.create_task("looked at").id
    orch.terminate(orch.deploy(task, scene.spec()).id, reason="enough")
    agent = orch.deploy(orch.create_task("lived in").id, scene.spec()).id
    before, processes = scene.world.snapshot(), scene.world.processes().keys()

    report = {}
    for words in READ_ONLY_COMMANDS:
        code, stdout, stderr = run(*words.split(), "--json")
        assert (0, "") == (code, stderr), stdout
        report[words] = json.loads(stdout)

    assert before == scene.world.snapshot()
    assert processes == scene.world.processes().keys()
    assert [agent] == report["sweep --dry-run"]["alive"]
    assert (1, 1) == (report["stats"]["total"], report["stats"]["agents_live"])
    checks = {check["name"]: check for check in report["doctor"]["checks"]}
    assert (
        f"pid {scene.world.server()} answers, and has 1 sessions" == checks["tmux server"]["found"]
    )
    for name in ("permissions", "locks", "root.json", "registries", "journals", "tmux socket"):
        assert "ok" == checks[name]["verdict"], checks[name]
    exposition.read(run("stats", "--format", "prometheus")[1])


@pytest.mark.tmux
def test_a_crash_is_found_with_3_and_reaped_with_0(scene, run):  # noqa: F811
    orch = scene.orchestrator()
    agent = orch.deploy(orch.create_task("swept").id, scene.spec()).id
    for pid in (scene.world.server(), *scene.world.panes(agent)):
        scene.kill(pid)

    assert 3 == run("sweep")[0]
    assert 3 == run("sweep", "--json")[0]
    assert 0 == run("sweep", "--reap")[0]

    assert (0, "nothing found; 0 agents alive\n", "") == run("sweep")
    assert [] == scene.world.leftovers()


@pytest.mark.tmux
def test_a_supervisor_with_a_failed_cleanup_runs_the_alert_command(
    scene,  # noqa: F811
    alert_command,
    monkeypatch,
):
    """That process has no observer, and the command is no process of the agent."""
    held = HeldStep(scene, monkeypatch)
    orch = scene.orchestrator()
    past.write_settings(scene.root, held.settings + alert_command.command(alert_command.writes))
    scene.gate("gate")
    spec = scene.spec("sh", "-c", f"read go <{scene.work}/gate")
    task = orch.create_task("t").id
    agent = orch.deploy(task, spec, extra_steps=[held.step]).id

    scene.let_go("gate")

    report = alert_command.report()
    assert ("stuck", agent) == (report["what"], report["subject"])
    assert "tests.held" in " ".join(report["errors"])
    assert "completed" == report["report"]["status"]
    assert "ORCHESTRATOR_COOKIE" not in alert_command.env()
    held.in_the_way.unlink()
    assert orch.recover(force=True).unwound
    assert [] == scene.world.leftovers()
