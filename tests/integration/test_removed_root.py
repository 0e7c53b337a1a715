"""A root that is removed, or moved, under its agents."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from support import acts
from support.scene import SLEEP, scene  # noqa: F401 - a fixture
from support.shell import Shell
from support.world import wait_for_deaths

from orchestrator_core.model import ids
from orchestrator_core.operations.doctor import examine
from orchestrator_core.system import paths

pytestmark = pytest.mark.tmux

STUBBORN = ["sh", "-c", "trap '' HUP TERM; echo working; echo $$ > pid; while :; do sleep 1; done"]


@pytest.fixture
def rescued(short_tmp, monkeypatch):
    """The directory in which supervisors save what they know."""
    monkeypatch.setattr(paths, "user_directories", lambda: iter([short_tmp / "mine"]))
    return short_tmp / "mine" / "removed"


def deployed(scene, *command):  # noqa: F811 - the fixture
    """Return the cookie of a new agent that has begun to work, and its processes."""
    orch = scene.orchestrator()
    agent = orch.deploy(orch.create_task("a task").id, scene.spec(*command))
    scene.follow(orch.root / f"{agent.task_id}/logs/{agent.id}_stream.jsonl", until=b"working")
    [step] = [s for s in orch.history(agent.id).stack if s.name == "spawn_tmux"]
    supervisor = step.load().supervisor.pid
    children = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
    cookie = ids.process_cookie(orch._context.root_id, agent.id)
    return cookie, [supervisor, *map(int, children)]


def test_a_removed_root_ends_its_agents_and_their_end_is_saved(scene, rescued):  # noqa: F811
    """They ran on, and every command said that there were none."""
    agents = [deployed(scene, *STUBBORN) for _ in range(2)]

    shutil.rmtree(scene.root)
    wait_for_deaths([pid for _, pids in agents for pid in pids], timeout_s=20)

    assert not scene.root.exists()
    for cookie, _ in agents:
        saved = json.loads((rescued / f"{cookie}.json").read_text())
        assert ("root-removed", str(scene.root)) == (saved["cause"], saved["root"])
        assert saved["contained"] is True
        assert b"working\n" == (rescued / f"{cookie}_stream.jsonl").read_bytes()
        assert 0o600 == (rescued / f"{cookie}.json").stat().st_mode & 0o777
    assert 0o700 == rescued.stat().st_mode & 0o777


@pytest.mark.parametrize("first", ["sagas", "TASK-"])
def test_a_root_is_removed_in_any_order(scene, rescued, first):  # noqa: F811
    cookie, pids = deployed(scene, *STUBBORN)

    names = sorted(scene.root.iterdir(), key=lambda path: not path.name.startswith(first))
    for path in names:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    wait_for_deaths(pids, timeout_s=20)

    assert (rescued / f"{cookie}.json").exists()


def test_a_moved_root_keeps_its_agents(scene, rescued):  # noqa: F811
    """It is at another place, and its agents can be ended from there."""
    cookie, pids = deployed(scene, *STUBBORN)
    moved = scene.root.with_name("moved")

    scene.root.rename(moved)
    (moved / "registry" / "note").touch()
    (moved / "registry" / "note").unlink()

    assert all(Path(f"/proc/{pid}").exists() for pid in pids)
    assert not (rescued / f"{cookie}.json").exists()
    moved.rename(scene.root)
    orch = scene.orchestrator()
    assert [True] == [orch.terminate(agent.id).success for agent in orch.agents()]


def test_a_run_directory_alone_is_no_root(scene, rescued):  # noqa: F811
    """Its removal is damage; nothing living is ended for damage."""
    cookie, pids = deployed(scene, *STUBBORN)
    [run] = scene.root.glob("TASK-*/run/*")

    shutil.rmtree(run)
    orch = scene.orchestrator()
    [agent] = orch.agents()
    scene.follow(scene.work / "pid", until=b"\n")

    assert all(Path(f"/proc/{pid}").exists() for pid in pids)
    assert orch.terminate(agent.id).success
    assert not (rescued / f"{cookie}.json").exists()


# --- agents of removed roots, found from another root ---------------------------------------------


@pytest.fixture
def other(scene):  # noqa: F811 - the fixture
    """An orchestrator on another root of the same user."""
    return acts.opened(scene.place / "other")


@pytest.fixture
def abandoned(scene, rescued, killed):  # noqa: F811, ARG001
    """An agent whose supervisor was killed, and whose root was removed: its cookie and its pid."""
    cookie, (supervisor, *pids) = deployed(scene, *STUBBORN)
    killed(supervisor)
    shutil.rmtree(scene.root)
    yield cookie, pids[0]
    killed(pids[0])


def test_a_sweep_of_another_root_ends_what_a_removed_root_has_left(other, abandoned, scene):  # noqa: F811
    cookie, pid = abandoned
    found = [each for each in other.sweep().findings if each.removed_cookie == cookie]
    assert {f"process {pid} (sh)"} <= {each.subject for each in found}
    assert all(each.reapable and str(scene.root) in each.what for each in found)
    assert Path(f"/proc/{pid}").exists()

    report = other.sweep(reap=True)

    assert all(each.success for each in report.reaped)
    wait_for_deaths([pid], timeout_s=20)
    assert [] == [each for each in other.sweep().findings if each.removed_cookie == cookie]


def test_the_doctor_reports_what_a_removed_root_has_left(abandoned, scene):  # noqa: F811, ARG001
    [check] = [each for each in examine(scene.root) if each.name == "removed roots"]
    assert "agents run on, whose roots were removed" in check.found
    assert str(scene.root) in check.found
    assert "sweep --reap" in check.remedy


def test_a_sweep_leaves_the_agents_of_other_roots_alone(scene, rescued, other):  # noqa: F811, ARG001
    """A moved root exists, too; and a forged cookie with a removed log is no proof."""
    cookie, pids = deployed(scene, *STUBBORN)
    assert [] == [each for each in other.sweep().findings if each.removed_cookie == cookie]
    agent_id = cookie.split("_", 2)[2]
    (scene.work / "T/logs").mkdir(parents=True)
    log = scene.work / f"T/logs/{agent_id}_stream.jsonl"
    env = {"PATH": "/bin:/usr/bin", "ORCHESTRATOR_COOKIE": cookie, "ORCHESTRATOR_ROOT": "/missing"}
    with log.open("w") as output, subprocess.Popen(SLEEP, env=env, stdout=output) as forger:
        shutil.rmtree(scene.work / "T")
        moved = scene.root.with_name("moved")
        scene.root.rename(moved)
        found = other.sweep(reap=True).findings
        assert [] == [each for each in found if each.removed_cookie == cookie]
        assert all(Path(f"/proc/{pid}").exists() for pid in pids)
        moved.rename(scene.root)
        orch = scene.orchestrator()
        assert [True] == [orch.terminate(agent.id).success for agent in orch.agents()]
        forger.kill()


def test_the_resident_sweeper_of_a_removed_root_stops(scene):  # noqa: F811
    """It went on for ever, with errors, and made nothing right."""
    shell = Shell(scene)
    with shell.start("sweep", "--watch", "--interval", "0.5") as sweeper:
        scene.follow(scene.root / "registry/sweeper.json", until=b"beat")
        shutil.rmtree(scene.root, ignore_errors=True)  # The sweeper may write meanwhile.
        (scene.root / "registry").mkdir(parents=True, exist_ok=True)
        try:
            _, stderr = sweeper.communicate(timeout=60)
        finally:
            sweeper.kill()
    assert 1 == sweeper.returncode
    assert f"the root {scene.root} was removed, and its sweeper has stopped" in stderr
    assert not (scene.root / "root.json").exists()
