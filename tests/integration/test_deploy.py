"""A deployment on real tmux is all or nothing, and touches nothing else."""

import json
import math
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
from support.needs import may_create_cgroups
from support.world import HELD, wait_for_deaths

from orchestrator_core.deployment.steps.session import LogReceipt, SessionReceipt
from orchestrator_core.exceptions import DeploymentError, TerminalTimeout
from orchestrator_core.saga import Saga

pytestmark = pytest.mark.tmux


@pytest.fixture
def orch(scene):
    return scene.orchestrator()


@pytest.fixture
def task(orch):
    return orch.create_task("tried").id


# --- all of it --------------------------------------------------------------------------------


def test_a_deployed_agent_runs_and_all_it_holds_is_recorded(scene, orch, task):
    """Session, processes, files, both records and an open journal exist when the call returns."""
    agent = orch.deploy(task, scene.spec())

    held = HELD | ({"cgroup"} if may_create_cgroups() else set())
    assert {agent.id: held} == scene.world.holdings()
    assert [] == scene.world.torn()
    assert 2 <= len(scene.world.of_agent(agent.id))
    [record] = scene.world.records().values()
    assert all(record["tracked_files"].values())
    assert "running" == record["status"]


def test_the_agent_starts_when_both_registries_hold_it(scene, orch, task):
    """An agent that reports with its first instruction is never 'not found'."""
    code = (
        "import json, os, pathlib\n"
        "me = os.environ['ORCHESTRATOR_AGENT_ID']\n"
        "root = pathlib.Path(os.environ['ORCHESTRATOR_ROOT'])\n"
        "known = json.loads((root / 'registry/GLOBAL_REGISTRY.json').read_text())['agents']\n"
        "task = root / os.environ['ORCHESTRATOR_TASK_ID'] / 'AGENT_REGISTRY.json'\n"
        "print(me in known, me in task.read_text(), flush=True)\n"
    )
    for _ in range(5):
        agent = orch.deploy(task, scene.spec(sys.executable, "-c", code))
        orch.wait(agent.id, timeout_s=20)
        assert "True True\n" == orch.read_output(agent.id)


def test_placeholders_prompt_and_environment_reach_the_agent_unchanged(scene, orch, task):
    """Exactly four tokens are replaced; no shell reads anything; the prompt is on stdin."""
    odd = """it's "quoted" $(touch x) `touch y` ; # {other} {{agent_id} $HOME \\ \n\té€😀"""
    code = (
        "import json, os, sys\n"
        "print(json.dumps([sys.argv[1:], sys.stdin.read(), os.getcwd(), os.environ['ODD'],"
        " sorted(n for n in os.environ if n.startswith('TMUX')),"
        " open(sys.argv[2]).read() == sys.argv[3]]))"
    )
    arguments = ["{agent_id}", "{prompt_file}", odd, "{task_id}", "{workspace}", odd, "", "-x", ";"]
    spec = scene.spec(sys.executable, "-c", code, *arguments, prompt=odd, env={"ODD": odd})
    agent = orch.deploy(task, spec)
    end = orch.wait(agent.id, timeout_s=20)

    assert "completed" == end.status, orch.read_output(agent.id)
    argv, stdin, cwd, env, tmux, same = json.loads(orch.read_output(agent.id))
    expected = odd.replace("{agent_id}", agent.id)
    prompt = str(scene.root / task / f"agent_prompt_{agent.id}.txt")
    workspace = str(scene.root / task)
    assert [agent.id, prompt, expected, task, workspace, expected, "", "-x", ";"] == argv
    assert (odd, str(scene.work), odd, []) == (stdin, cwd, env, tmux)
    assert same == (odd == expected)
    assert [] == [*scene.work.iterdir()]


def test_a_prompt_of_ten_megabytes_arrives(scene, orch, task):
    """A prompt travels in a file: no command line is too long."""
    prompt = "0123456789abcde\n" * (10 << 16)
    agent = orch.deploy(task, scene.spec("sh", "-c", "wc -c; md5sum {prompt_file}", prompt=prompt))
    assert "completed" == orch.wait(agent.id, timeout_s=30).status

    assert str(len(prompt)) == orch.read_output(agent.id).split()[0]
    assert len(scene.world.records()[agent.id]["prompt"]) <= 200
    assert [] == scene.world.leftovers()


def test_a_secret_reaches_the_agent_and_no_other_place(scene, orch, task):
    """Neither environment nor prompt nor arguments are in a journal, a registry, a log, or ps."""
    secrets = {"env": "s3cret-env", "prompt": "s3cret-prompt", "argument": "s3cret-argument"}
    go = scene.gate("go")
    spec = scene.spec(
        *("sh", "-c", f"read x < {go}", secrets["argument"]),
        prompt="x" * 200 + secrets["prompt"],
        env={"TOKEN": secrets["env"]},
    )
    agent = orch.deploy(task, spec)

    def shown():
        files = {p: p.read_bytes() for p in scene.root.rglob("*") if p.is_file()}
        found = [(str(p), s) for p in files for s in secrets.values() if s.encode() in files[p]]
        [pane] = scene.world.panes(agent.id)
        for pid in (pane, scene.world.server()):
            texts = b"".join(Path(f"/proc/{pid}/{n}").read_bytes() for n in ("cmdline", "environ"))
            found += [(pid, s) for s in secrets.values() if s.encode() in texts]
        return found

    prompt = str(scene.root / task / f"agent_prompt_{agent.id}.txt")
    assert [(prompt, secrets["prompt"])] == shown()
    assert all(p.stat().st_mode & 0o077 == 0 for p in scene.root.rglob("*") if not p.is_symlink())

    orch.terminate(agent.id)
    files = (p for p in scene.root.rglob("*") if p.is_file())
    assert [] == [p for p in files for s in secrets.values() if s.encode() in p.read_bytes()]


# --- or nothing -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "message"),
    [("echo oops; exit 3", "exit status 3"), ("echo oops; kill -9 $$", "signal 9")],
    ids=["exits", "is killed"],
)
def test_an_early_death_fails_the_deployment_which_shows_the_last_output(
    script, message, scene, orch, task
):
    """The error has the exit and the last output of the agent, and nothing is left."""
    with pytest.raises(DeploymentError, match=message) as raised:
        orch.deploy(task, scene.spec("sh", "-c", script), grace_s=10)

    assert ("oops\n", True, ()) == (
        raised.value.output,
        raised.value.cleanup_performed,
        raised.value.leaked,
    )
    assert all(raised.value.resources_cleaned.values())
    assert {} == scene.world.records()
    assert [] == scene.world.leftovers() + scene.world.torn()


def test_an_agent_that_finishes_within_the_grace_was_deployed(scene, orch, task):
    """Exit status 0 is no failure, however early."""
    agent = orch.deploy(task, scene.spec("true"), grace_s=10)

    assert "completed" == orch.wait(agent.id, timeout_s=20).status
    assert [] == scene.world.leftovers()


def test_a_program_that_the_kernel_refuses_fails_the_deployment(scene, orch, task):
    """An executable file without a valid format passes every check, and fails at exec."""
    program = scene.program("broken", "#!/no/such/interpreter\n")

    for _ in range(5):  # A race: the deployer can be faster than the exit record.
        with pytest.raises(DeploymentError, match=r"broken.*No such file"):
            orch.deploy(task, scene.spec(program))

    assert [] == scene.world.leftovers() + scene.world.torn()


def test_a_deployment_by_a_hung_tmux_ends_in_time_and_is_recovered(scene, orch, task):
    """A stopped server causes an error within the timeout, which names the leak."""
    living = orch.deploy(task, scene.spec())
    server = scene.world.server()
    hasty = scene.orchestrator(terminal_timeout_s=0.3)
    os.kill(server, signal.SIGSTOP)
    try:
        with pytest.raises((DeploymentError, TerminalTimeout)) as raised:
            hasty.deploy(task, scene.spec())
        assert any("tmux_session" in leak for leak in raised.value.leaked)
        waiting = hasty.recover().waiting
    finally:
        os.kill(server, signal.SIGCONT)

    assert 1 == len(waiting)
    orch.recover(force=True)
    scene.world.tmux("list-sessions")  # The server has answered: what was asked of it is done.
    assert {living.id} == {a for a, holds in scene.world.holdings().items() if holds}
    assert [] == scene.world.torn()
    assert orch.terminate(living.id).success
    assert [] == scene.world.leftovers()


def test_an_end_by_a_hung_tmux_ends_the_processes_and_is_finished_later(scene, orch, task):
    """Processes end without tmux; the session is STUCK until tmux answers, then gone."""
    agent = orch.deploy(task, scene.spec())
    server = scene.world.server()
    os.kill(server, signal.SIGSTOP)
    try:
        end = scene.orchestrator(terminal_timeout_s=0.3).terminate(agent.id)
        assert not end.success
        assert [] == scene.world.of_agent(agent.id)
    finally:
        os.kill(server, signal.SIGCONT)

    assert (agent.id,) == tuple(orch.recover(force=True).unwound)
    assert [] == scene.world.leftovers() + scene.world.torn()


@pytest.mark.parametrize("recovered", [True, False], ids=["recovered", "not recovered"])
def test_a_session_that_appears_after_its_deployers_death_exits_by_itself(
    recovered, scene, orch, actors, task
):
    """The deployer is killed while its new-session is in flight: the gate stays shut."""
    orch.terminate(orch.deploy(task, scene.spec()).id)  # The server runs.
    scene.world.tmux("set-hook", "-g", "session-closed", "wait-for -S closed")
    gate, came = scene.gate("in-flight"), scene.gate("came")
    real = shutil.which("tmux")
    (scene.place / "bin").mkdir()
    waits = f'read go < {gate}; {real} "$@"; echo yes > {came}; exit'
    script = f'case "$*" in *new-session*) {waits};; esac; exec {real} "$@"'
    scene.program("bin/tmux", f"#!/bin/sh\n{script}\n")
    path = f"{scene.place}/bin:{os.environ['PATH']}"
    command = ["sh", "-c", f"echo ran > {scene.work}/ran; sleep 1000"]
    deployer = actors.start(
        "deploy_with_path", root=str(scene.root), task=task, command=command, path=path
    )
    with Path(gate).open("w") as go:  # Opens when its tmux waits there.
        os.kill(deployer, signal.SIGKILL)
        assert actors.collect(deployer)["killed"]
        if recovered:
            orch.recover(force=True)
            # Of it there is nothing but the tmux that is still on its way.
            assert [{"process"}] == [h for h in scene.world.holdings().values() if h]
        go.write("go\n")
    assert "yes\n" == Path(came).read_text()

    # The client is let go, the session comes, finds no commit, and leaves.
    scene.world.tmux("wait-for", "closed")
    assert {} == scene.world.until_alone()
    assert [] == scene.world.sessions()
    assert not (scene.work / "ran").exists()
    orch.recover(force=True)
    assert [] == scene.world.leftovers() + scene.world.torn()


# --- other agents and sessions ------------------------------------------------------------------


@pytest.mark.parametrize("kill", ["terminate", "its own exit", "supervisor -9", "kill-session"])
def test_the_end_of_one_agent_of_five_leaves_the_others_and_the_server_alive(
    kill, scene, orch, task
):
    """This holds even for the agent whose deployment started the server."""
    first, *others = [
        orch.deploy(task, scene.spec("sh", "-c", f"read go < {gate}"))
        for gate in [scene.gate("go"), *map(scene.gate, "abcd")]
    ]
    server = scene.world.server()
    alive = {other.id: scene.world.of_agent(other.id) for other in others}

    if kill == "terminate":
        orch.terminate(first.id)
    elif kill == "its own exit":
        scene.let_go("go")
    elif kill == "supervisor -9":
        [pane] = scene.world.panes(first.id)
        os.kill(pane, signal.SIGKILL)
        wait_for_deaths([pane], timeout_s=20)
    else:
        scene.world.tmux("kill-session", "-t", f"=agent_{first.id}")
    assert orch.wait(first.id, timeout_s=20).success

    assert server == scene.world.server()
    assert alive == {other.id: scene.world.of_agent(other.id) for other in others}
    assert sorted(other.tmux_session for other in others) == scene.world.sessions()
    assert [] == scene.world.torn()


def test_a_users_session_of_the_same_name_is_not_touched(scene, orch, task, monkeypatch):
    """The deployment fails, the user's session lives on, and nothing of the agent is left."""
    orch.terminate(orch.deploy(task, scene.spec()).id)
    from orchestrator_core.model import ids  # noqa: PLC0415 - to know the next id beforehand

    monkeypatch.setattr(ids, "new_agent_id", lambda _type: "a-000000-abcdef")
    scene.world.tmux("new-session", "-d", "-s", "agent_a-000000-abcdef", "sleep 1000")

    with pytest.raises(DeploymentError, match="already exists"):
        orch.deploy(task, scene.spec())
    orch.recover(force=True)

    assert ["agent_a-000000-abcdef"] == scene.world.sessions()
    [pane] = scene.world.panes("a-000000-abcdef")
    os.kill(pane, signal.SIGKILL)
    wait_for_deaths([pane], timeout_s=20)


def test_a_killed_tmux_server_ends_its_agents_and_the_next_deployment_starts_another(
    scene, orch, task
):
    """All sessions are gone at once: each agent is ended as such, and the next deployment works."""
    agents = [orch.deploy(task, scene.spec()) for _ in range(3)]
    server = scene.world.server()
    os.kill(server, signal.SIGKILL)
    wait_for_deaths([server], timeout_s=20)

    ends = [orch.wait(agent.id, timeout_s=30) for agent in agents]

    assert [("terminated", True)] * 3 == [(end.status, end.success) for end in ends]
    assert {} == scene.world.until_alone()
    assert orch.terminate(orch.deploy(task, scene.spec()).id).success
    assert [] == scene.world.leftovers() + scene.world.torn()


def test_a_deadline_ends_an_agent_without_an_orchestrator(scene, orch, task):
    """The supervisor watches the deadline; no orchestrator is needed."""
    agent = orch.deploy(task, scene.spec(deadline_s=0.5))

    end = orch.wait(agent.id, timeout_s=20)

    assert ("terminated", "deadline", True) == (end.status, end.by, end.success)
    assert [] == scene.world.leftovers()


def test_a_key_names_one_agent_while_it_is_alive_and_is_free_afterwards(scene, orch, task):
    """A key names one live agent; after its end, the next deployment creates another."""
    first = orch.deploy(task, scene.spec(key="nightly"))
    assert first.id == orch.deploy(task, scene.spec(key="nightly")).id

    orch.terminate(first.id)
    second = orch.deploy(task, scene.spec(key="nightly"))

    assert first.id != second.id
    assert [second.tmux_session] == scene.world.sessions()


# --- times without a bound ----------------------------------------------------------------------


@pytest.mark.parametrize("limit_s", [25 * 86400, 1e300, math.inf])
def test_an_agent_with_a_far_deadline_lives(scene, orch, task, limit_s):
    """An agent that its supervisor ended at once would have died within the grace."""
    agent = orch.deploy(task, scene.spec(deadline_s=limit_s), grace_s=0.2)

    assert "running" == orch.agent(agent.id).status
    assert [agent.id] == list(orch.recover().alive)


@pytest.mark.parametrize("limit_s", [30 * 86400, 1e300, math.inf])
def test_a_wait_and_a_grace_may_be_any_time(scene, orch, task, limit_s):
    agent = orch.deploy(task, scene.spec("true"), grace_s=limit_s)

    assert "completed" == orch.wait(agent.id, timeout_s=limit_s).status


def test_a_supervisor_that_dies_before_it_reports_is_a_failed_deployment(
    scene, orch, task, monkeypatch
):
    """The deployment ends at once, and leaves nothing."""
    commit = Saga.commit

    def commit_and_kill(saga):
        commit(saga)
        pid = saga.receipt(SessionReceipt).supervisor.pid
        events = saga.receipt(LogReceipt).events
        os.close(os.open(events, os.O_WRONLY | os.O_NONBLOCK))  # As the supervisor does first.
        os.kill(pid, signal.SIGKILL)

    monkeypatch.setattr(Saga, "commit", commit_and_kill)

    with pytest.raises(DeploymentError, match="supervisor was killed"):
        orch.deploy(task, scene.spec())

    assert {} == scene.world.holdings()
