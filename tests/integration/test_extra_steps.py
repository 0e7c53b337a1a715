"""Extra steps on real tmux, git and processes: undone by other processes, after kill -9."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.world import wait_for_deaths

import orchestrator_core
from orchestrator_core.exceptions import DeploymentError
from orchestrator_core.resources import (
    EnvFile,
    GitWorktree,
    ReservedPort,
    Subprocess,
    TempDirectory,
    subprocess_step,
)
from orchestrator_core.resources.subprocess_step import SubprocessReceipt
from orchestrator_core.saga import Context, Unwind
from orchestrator_core.system.processes import Identity, LocalProcesses

pytestmark = pytest.mark.tmux

TOP = Path(orchestrator_core.__file__).parents[1]
SECRET = "hunter2-and-more"

#: A script that ignores HUP and TERM, and has a child in another session that ignores them as well.
STUBBORN = ["sh", "-c", "trap '' HUP TERM; setsid sleep 1000 & sleep 1000; sleep 1000"]


@pytest.fixture
def orch(scene):
    return scene.orchestrator()


@pytest.fixture
def task(orch):
    return orch.create_task("tried").id


@pytest.fixture
def repository(scene):
    made = scene.place / "repository"
    git(scene.place, "init", "-q", str(made))
    (made / "file").write_text("one\n")
    git(made, "add", ".")
    git(made, "commit", "-q", "-m", "one")
    return made


def git(where, *arguments):
    author = ["-c", "user.name=A", "-c", "user.email=a@b"]
    return subprocess.check_output(["git", *author, *arguments], cwd=where, text=True).strip()


def all_of_them(scene, repository, helper=("sleep", "1000")):
    return [
        GitWorktree(repository),
        ReservedPort(claims=scene.place / "claims"),
        TempDirectory(),
        EnvFile({"KEY": SECRET}),
        Subprocess(helper, term_s=0.3),
    ]


def left_of_them(scene, repository):
    """Return all things and processes that the steps have left."""
    left = [str(path) for path in scene.root.glob("held/*/*")]
    claims = scene.place / "claims"
    left += [
        str(path) for path in (claims.iterdir() if claims.is_dir() else ()) if path.is_symlink()
    ]
    left += git(repository, "for-each-ref", "--format=%(refname)", "refs/heads/agent/").split()
    left += git(repository, "worktree", "list").splitlines()[1:]
    return left + list(scene.world.processes().values())


def read(path):
    """Return what a process writes to a FIFO."""
    return Path(path).read_text()


# --- provisions --------------------------------------------------------------------------


def test_an_agent_gets_the_provisions_until_its_end(scene, orch, task, repository):
    """The agent gets variables, placeholders and a directory. After its exit another process
    undoes them."""
    written = scene.gate("written")
    words = '"$PWD" "{worktree}" "{port}" "$PORT" "$TMPDIR" "$KEY" "$BRANCH"'
    script = f'printf "%s\\n" {words} >{written}'
    spec = scene.spec("sh", "-c", script, cwd=None)

    agent = orch.deploy(task, spec, extra_steps=all_of_them(scene, repository))
    pwd, worktree, port, variable, tmp, key, branch = read(written).splitlines()
    end = orch.wait(agent.id, timeout_s=20)

    assert pwd == worktree
    assert port == variable
    assert 20000 <= int(port) < 30000
    assert str(scene.root / "held" / agent.id / "tmp") == tmp
    assert SECRET == key
    assert f"agent/{agent.id}" == branch
    assert "completed" == end.status
    assert end.success
    assert () == end.kept
    assert [] == left_of_them(scene, repository)
    assert [] == scene.world.leftovers()


def test_an_agents_command_can_be_in_the_worktree(scene, orch, task, repository):
    """The program does not exist before the step is done, so it is not looked for earlier."""
    (repository / "run").write_text("#!/bin/sh\nexit 0\n")
    (repository / "run").chmod(0o755)
    git(repository, "add", ".")
    git(repository, "commit", "-q", "-m", "run")

    for command in ("./run", "{worktree}/run"):
        agent = orch.deploy(
            task, scene.spec(command, cwd=None), extra_steps=[GitWorktree(repository)]
        )
        assert "completed" == orch.wait(agent.id, timeout_s=20).status


def test_an_agent_that_a_hook_deploys_commits_on_its_own_branch(
    scene, orch, task, repository, monkeypatch
):
    """Git exports the repository and the index of a commit to its hooks."""
    git(repository, "worktree", "add", "-q", "-b", "side", str(scene.place / "other"))
    entry = repository / ".git" / "worktrees" / "other"
    monkeypatch.setenv("GIT_DIR", str(entry))
    monkeypatch.setenv("GIT_INDEX_FILE", str(entry / "index"))
    monkeypatch.setenv("GIT_PREFIX", "")
    identity = "git -c user.name=A -c user.email=a@b"
    script = f"echo new >new; git add -A; {identity} commit -qm 'by the agent'"

    agent = orch.deploy(
        task, scene.spec("sh", "-c", script, cwd=None), extra_steps=[GitWorktree(repository)]
    )
    end = orch.wait(agent.id, timeout_s=20)

    monkeypatch.undo()
    assert "completed" == end.status, orch.read_output(agent.id)
    assert "one" == git(repository, "log", "--format=%s", "side")
    assert "by the agent" == git(repository, "log", "-1", "--format=%s", f"agent/{agent.id}")


def test_a_helper_gets_the_provisions_of_the_steps_before_it(scene, orch, task):
    written = scene.gate("written")
    helper = ["sh", "-c", f'echo "{{port}} $PORT $KEY {{other}}" >{written}; sleep 1000']
    own = [
        ReservedPort(claims=scene.place / "claims"),
        EnvFile({"KEY": SECRET}),
        Subprocess(helper),
    ]

    agent = orch.deploy(task, scene.spec(), extra_steps=own)
    port, variable, key, other = read(written).split()
    orch.terminate(agent.id)

    assert (port, SECRET, "{other}") == (variable, key, other)
    assert [] == scene.world.leftovers()


def test_a_secrets_value_is_in_its_own_file_alone(scene, orch, task, repository):
    """No command line shows it, and no other file has it, while the agent lives."""
    agent = orch.deploy(task, scene.spec(), extra_steps=all_of_them(scene, repository))
    lines = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline")]
    files = [path for path in scene.root.rglob("*") if path.is_file()]
    with_it = [path.name for path in files if SECRET.encode() in path.read_bytes()]
    orch.terminate(agent.id)
    after = [path for path in scene.root.rglob("*") if path.is_file()]

    assert [] == [line for line in lines if SECRET.encode() in line]
    assert ["env_file.env"] == with_it
    assert [] == [path for path in after if SECRET.encode() in path.read_bytes()]


def test_unsaved_work_is_reported_in_every_view(scene, orch, task, repository):
    """These are the report, the record, and the command that shows the agent."""
    spec = scene.spec("sh", "-c", "echo work >new", cwd=None)

    agent = orch.deploy(task, spec, extra_steps=[GitWorktree(repository)])
    end = orch.wait(agent.id, timeout_s=20)
    shown = command(scene, "show", agent.id)

    [kept_path] = end.kept
    assert str(scene.root / "held" / agent.id) in kept_path
    assert [kept_path] == scene.world.records()[agent.id]["auto_cleanup_result"]["kept"]
    assert kept_path in shown
    assert "work\n" == next(scene.root.glob("held/*/*/new")).read_text()


def command(scene, *words, code=0):
    """Run a command in another process, as a user does."""
    ran = subprocess.run(
        [sys.executable, "-m", "orchestrator_core", "--root", str(scene.root), *words],
        cwd=scene.place,
        env={**os.environ, "PYTHONPATH": f"{TOP}{os.pathsep}{scene.place}"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert code == ran.returncode, ran.stdout + ran.stderr
    return ran.stdout


# --- kill -9, and recovery by another process -----------------------------------------------------

#: A process that deploys with all five steps, and kills itself in the *doomed* one.
DEPLOYER = """
import os, signal, sys
from orchestrator_core import AgentSpec, Orchestrator
from orchestrator_core.resources import *

root, task, repository, claims, doomed, when = sys.argv[1:]
own = [
    GitWorktree(repository),
    ReservedPort(claims=claims),
    TempDirectory(),
    EnvFile({"KEY": "secret"}),
    Subprocess(["sleep", "1000"], term_s=0.3),
]

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

kind = next(type(step) for step in own if type(step).__name__ == doomed)
name = "do_with" if hasattr(kind, "do_with") else "do"
done = getattr(kind, name)

def do(self, *given):
    if when == "after":
        done(self, *given)
    die()

setattr(kind, name, do)
Orchestrator(root, recover=False).deploy(
    task, AgentSpec(type="a", prompt="p", command=["sleep", "1000"]), extra_steps=own
)
"""


def deploy_and_die(scene, task, repository, *doomed):
    claims = scene.place / "claims"
    arguments = [scene.root, task, repository, claims, *doomed]
    ran = subprocess.run(
        [sys.executable, "-c", DEPLOYER, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(TOP)},
        cwd=scene.work,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert -signal.SIGKILL == ran.returncode, ran.stderr


@pytest.mark.parametrize(
    ("step", "when"),
    [
        ("GitWorktree", "after"),
        ("ReservedPort", "after"),
        ("EnvFile", "before"),
        ("Subprocess", "before"),
        ("Subprocess", "after"),
    ],
)
def test_a_deployment_killed_between_two_steps_is_recovered_by_another_process(
    scene, task, repository, step, when
):
    """The kill comes before a step's ``do``, or between the ``do`` and its journal entry."""
    deploy_and_die(scene, task, repository, step, when)
    assert left_of_them(scene, repository)

    output = command(scene, "recover")

    assert "1 recovered" in output
    assert [] == left_of_them(scene, repository)
    assert [] == scene.world.leftovers()


def test_recovery_waits_for_a_git_that_outlives_its_orchestrator(scene, task, repository, actors):
    """Git creates the branch after its orchestrator was killed. Recovery removes it."""
    begun, go, once = scene.gate("begun"), scene.gate("go"), scene.work / "once"
    hook = repository / ".git" / "hooks" / "reference-transaction"
    wait = f"touch {once}; echo begun >{begun}; read _ <{go}"
    hook.write_text(f"#!/bin/sh\n[ -e {once} ] || {{ {wait}; }}\n")
    hook.chmod(0o755)
    how = {"root": str(scene.root), "task": task, "repository": str(repository)}
    deployer = actors.start("deploy_in_worktree", **how)
    read(begun)
    scene.kill(deployer)
    actors.collect(deployer)
    locked = scene.world.locked()

    recovery = actors.start("recover", root=str(scene.root))
    scene.let_go("go")
    report = actors.collect(recovery)["result"]

    assert [name for name in locked if name.startswith("held/")]
    assert {} == report["failed"]
    assert 1 == len(report["unwound"])
    assert [] == left_of_them(scene, repository)


def test_a_helper_outlives_its_orchestrator_but_not_its_agent(scene, task, actors):
    """The helper outlives the deployer, and ends when another process ends the agent."""
    agent = actors.do("deploy_with_helper", root=str(scene.root), task=task)["result"]
    [journal] = scene.root.glob("sagas/*.jsonl")
    intents = [json.loads(line) for line in journal.read_bytes().splitlines()]
    [done] = [x for x in intents if x["kind"] == "done" and x["step"] == "subprocess"]
    supervisor = Identity(**done["receipt"]["supervisor"])
    assert LocalProcesses().is_alive(supervisor)

    command(scene, "kill", agent)

    assert not LocalProcesses().is_alive(supervisor)
    assert [] == scene.world.leftovers()


def test_a_lost_agents_helper_is_ended(scene, orch, task, repository):
    """The agent's supervisor is killed. Recovery ends agent and helper."""
    agent = orch.deploy(task, scene.spec(), extra_steps=all_of_them(scene, repository))
    [pane] = scene.world.panes(agent.id)
    os.kill(pane, signal.SIGKILL)
    wait_for_deaths([pane], timeout_s=20)

    command(scene, "recover")

    assert [] == left_of_them(scene, repository)
    assert [] == scene.world.leftovers()


# --- helpers --------------------------------------------------------------------------------------


def test_a_stubborn_helper_is_ended_with_all_its_processes_and_with_proof(scene, orch, task):
    helper = Subprocess(STUBBORN, term_s=0.2)

    agent = orch.deploy(task, scene.spec(), extra_steps=[helper])
    step = next(s for s in orch.terminate(agent.id).steps if s["step"] == "subprocess")

    assert ("undone", True, True) == (
        step["result"],
        step["detail"]["proven"],
        step["detail"]["forced"],
    )
    assert [] == scene.world.leftovers()


def test_a_helper_whose_undo_comes_before_its_start_never_runs(scene, monkeypatch):
    """The orchestrator died during the start. The late supervisor finds no launch file."""
    came, late = scene.work / "came", []
    step = Subprocess(["touch", str(came)], directory=scene.place / "held")
    planned = step.plan(Context("s"))

    def die(argv, _cookie):
        late.append(argv)
        raise KeyboardInterrupt

    monkeypatch.setattr("orchestrator_core.resources.subprocess_step._spawn_detached", die)
    with pytest.raises(KeyboardInterrupt):
        step.do(planned)

    prevented = subprocess_step._prevent_start(Path(planned.run))
    ran = subprocess.run(late[0], stdin=subprocess.DEVNULL, timeout=20, check=False)
    outcome = Subprocess().undo(planned, Unwind.recovery())

    assert prevented
    assert 0 == ran.returncode
    assert not came.exists()
    assert "undone" == outcome.result.value
    assert not Path(planned.run).exists()


def test_the_exit_of_a_helper_is_reported(scene, orch, task):
    gone = scene.gate("gone")
    with scene.until_closed(gone):
        helper = Subprocess(["sh", "-c", f"exec 9>{gone}; exit 7"], log=scene.place / "helper.log")
        agent = orch.deploy(task, scene.spec(), extra_steps=[helper])
    held = scene.root / "held" / agent.id / "subprocess"
    supervisor = orch.history(agent.id).frame("subprocess").load().supervisor
    LocalProcesses().watch(supervisor, timeout_s=20)
    assert (held / "exit").exists()

    step = orch.terminate(agent.id).steps[-1]

    assert 7 == step["detail"]["exit_code"]
    assert (scene.place / "helper.log").exists()
    assert [] == scene.world.leftovers()


@pytest.mark.parametrize("name", ["no-such-program", "/etc/hostname"])
def test_a_helper_that_cannot_run_fails_the_deployment(scene, orch, task, name):
    """The error names the program. The step before it is undone as well."""
    with pytest.raises(DeploymentError, match=name) as caught:
        orch.deploy(task, scene.spec(), extra_steps=[TempDirectory(), Subprocess([name])])

    assert () == caught.value.leaked
    assert [] == scene.world.leftovers()


def test_a_process_with_a_helpers_recycled_pid_is_not_ended(scene):
    """The foreign process runs the same command."""
    foreign = subprocess.Popen(["sleep", "1000"])
    try:
        current = LocalProcesses().identify(foreign.pid)
        earlier = Identity(current.boot_id, current.pid, current.started - 100)
        run = scene.place / "held" / "subprocess"
        run.mkdir(parents=True, mode=0o700)
        run.parent.chmod(0o700)
        receipt = SubprocessReceipt(str(run), "och_x", 0.2, 0.2, supervisor=earlier)

        outcome = Subprocess(["sleep", "1000"]).undo(receipt, Unwind.terminal())

        assert 0 == outcome.detail["processes_ended"]
        assert foreign.poll() is None
    finally:
        foreign.kill()
        foreign.wait()


def test_a_sweep_does_not_report_a_helper_as_an_orphan(scene, orch, task):
    """The agent's saga accounts for it."""
    agent = orch.deploy(task, scene.spec(), extra_steps=[Subprocess(["sleep", "1000"])])

    report = orch.sweep(reap=True)

    assert () == report.findings
    assert orch.terminate(agent.id).success


# --- a user's step ----------------------------------------------------------------------------

_USERS = """
import os
from pathlib import Path
from orchestrator_core.saga import Outcome, Presence, receipt

@receipt("users.flag")
class Flag:
    path: str

class RaiseFlag:
    receipt_type = Flag

    def plan(self, ctx):
        return Flag(str(Path(ctx.values["workspace"], "output", ctx.saga_id)))

    def do(self, flag):
        Path(flag.path).touch()
        return flag

    def undo(self, flag, why):
        Path(flag.path).unlink()
        return Outcome.undone()

    def probe(self, flag):
        return Presence.OURS if Path(flag.path).exists() else Presence.ABSENT

STEPS = [RaiseFlag()]
"""


def test_an_unwinder_leaves_an_unknown_step_to_a_process_that_knows_it(scene, task, monkeypatch):
    """The saga is STUCK and shows the step's name. Declared again, another process recovers it."""
    (scene.place / "users_steps.py").write_text(_USERS)
    monkeypatch.syspath_prepend(scene.place)
    settings = scene.root / "orchestrator.toml"
    declared = f'[steps]\nmodules = ["users_steps"]\npath = ["{scene.place}"]\n'
    settings.write_text(declared)
    orch = scene.orchestrator()
    orch.approve_settings()
    import users_steps  # noqa: PLC0415 - the test has just written it

    gate = scene.gate("gate")
    spec = scene.spec("sh", "-c", f"read _ <{gate}")
    agent = orch.deploy(task, spec, extra_steps=[users_steps.RaiseFlag()])
    [flag] = scene.root.glob("TASK-*/output/*")
    settings.write_text("")
    [supervisor] = scene.world.panes(agent.id)
    scene.let_go("gate")
    wait_for_deaths([supervisor], timeout_s=20)

    shown = command(scene, "show", agent.id)
    assert "users.flag" in shown
    assert "[steps] in orchestrator.toml" in shown
    assert flag.exists()
    assert {"journal"} >= scene.world.holdings()[agent.id] - {"open journal"}
    settings.write_text(declared)
    command(scene, "recover", "--force")

    assert not flag.exists()
    assert [] == [left for left in scene.world.leftovers() if "orchestrator.toml" not in left]
