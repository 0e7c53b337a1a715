"""The health of a sweeper, from its heartbeat and its process."""

from __future__ import annotations

import json
import os
import subprocess
import time

import attrs
import pytest

from orchestrator_core.operations.daemon import heartbeat
from orchestrator_core.operations.daemon.heartbeat import Heartbeat, LastSweep, health
from orchestrator_core.operations.daemon.service import ServiceManager
from orchestrator_core.system.processes import identity

WELL = LastSweep(at="now", duration_ms=12.0)


@pytest.fixture
def root(tmp_path):
    (tmp_path / "registry").mkdir()
    return tmp_path


def beat_of(pid=None, age_s=0.0, **how):
    """Return the heartbeat of a process, by default of this one."""
    process = identity.identify(pid or os.getpid())
    values = {
        "version": "1",
        "started_at": "then",
        "beat_at": "just now",
        "beat_monotonic": time.monotonic() - age_s,
        "beats_every_s": 30.0,
        "interval_s": 30.0,
        "watched": 3,
        "sweeps": 1,
        "last_sweep": WELL,
    }
    return Heartbeat(**attrs.asdict(process), **(values | how))


def asked(root, beat):
    heartbeat.write(root, beat)
    return health(root)


def test_a_sweeper_with_a_recent_heartbeat_is_healthy(root):
    found = asked(root, beat_of())

    assert (True, ()) == (found.healthy, found.problems)
    assert "watches 3 agents; it swept in 12 ms" in found.words


def test_a_sweeper_in_its_first_sweep_is_healthy(root):
    assert "first sweep is running" in asked(root, beat_of(sweeps=0, last_sweep=None)).words


@pytest.mark.parametrize(
    ("how", "problem"),
    [
        ({"age_s": 3600.0}, "no heartbeat for 36"),
        ({"errors_in_a_row": 3, "last_error": "sweep: no disk"}, "last 3 of its sweeps failed: sw"),
        ({"hung": {"sweep": 130.0}}, "sweep has run for 130 s"),
        ({"is_stopped": True}, "stopped on request"),
    ],
    ids=["silent", "failing", "hung", "stopped in a server that lives on"],
)
def test_the_problem_of_an_unhealthy_sweeper_is_reported(root, how, problem):
    found = asked(root, beat_of(**how))

    assert not found.healthy
    assert problem in found.problems[0]


def test_findings_are_remarks_of_a_healthy_sweeper(root):
    last = attrs.evolve(
        WELL, findings={"silent": 30}, told=("silent: a-1 says nothing",), unknown=("tmux",)
    )

    found = asked(root, beat_of(last_sweep=last))

    assert found.healthy
    assert ("silent: a-1 says nothing", "and 29 more findings", "could not ask: tmux") == (
        found.remarks
    )


def test_a_dead_sweeper_is_dead_although_its_pid_is_reused(root):
    """Another process with the same pid does not make the sweeper alive."""
    stranger = subprocess.Popen(["sleep", "1000"])
    try:
        beat = beat_of(stranger.pid)
        assert asked(root, beat).healthy
        assert not asked(root, attrs.evolve(beat, started=beat.started - 1)).healthy
        assert not asked(root, attrs.evolve(beat, boot_id="another")).healthy
    finally:
        stranger.kill()
        stranger.wait()
    assert "is dead; its last heartbeat was just now" in asked(root, beat).words
    stopped = asked(root, attrs.evolve(beat, is_stopped=True))
    assert "stopped on request, at just now" in stopped.words


def test_a_change_of_the_clock_makes_no_sweeper_unhealthy(root, monkeypatch):
    heartbeat.write(root, beat_of())
    real = time.time
    for by_s in (10 * 366 * 86400, -10 * 366 * 86400):
        monkeypatch.setattr(time, "time", lambda by_s=by_s: real() + by_s)
        assert health(root).healthy


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"pid": "no"}', b"\xff"])
def test_a_damaged_heartbeat_is_reported(root, data):
    heartbeat.file_of(root).write_bytes(data)

    assert "is no heartbeat" in health(root).words


def test_a_root_without_a_sweeper_is_not_changed(tmp_path):
    found = health(tmp_path / "nowhere")

    assert "no sweeper has run" in found.words
    assert [] == list(tmp_path.iterdir())


def test_the_health_is_json_safe(root):
    document = json.loads(json.dumps(asked(root, beat_of()).to_dict()))

    assert (True, 3) == (document["healthy"], document["heartbeat"]["watched"])


# --- notifications ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("env", "watchdog_s"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "90000000"}, 90.0),
        ({"WATCHDOG_USEC": "90000000", "WATCHDOG_PID": str(os.getpid())}, 90.0),
        ({"WATCHDOG_USEC": "90000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_variables_of_the_service_manager_are_removed_from_the_environment(env, watchdog_s):
    """A child process is not the service, and must not notify the service manager."""
    left = {"PATH": "/bin", "NOTIFY_SOCKET": "/run/notify", **env}

    manager = ServiceManager.from_environment(left)

    assert ({"PATH": "/bin"}, "/run/notify", watchdog_s) == (
        left,
        manager.address,
        manager.watchdog_s,
    )


def test_a_service_manager_that_does_not_listen_is_no_error(tmp_path):
    ServiceManager().notify("READY=1")
    ServiceManager(str(tmp_path / "nobody")).notify("READY=1")
    ServiceManager("@nobody").notify("READY=1")
    ServiceManager(f"/{'x' * 200}").notify("READY=1")
