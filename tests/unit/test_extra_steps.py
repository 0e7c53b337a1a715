"""Steps of one's own in a deployment: taken first, given back last, known to whoever undoes."""

from __future__ import annotations

import ast
import json
import logging
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from support.fakes import fast_place

from orchestrator_core import AgentSpec, DeploymentError, InvalidInput, Orchestrator
from orchestrator_core.exceptions import OrchestratorError, UnknownStep
from orchestrator_core.resources import (
    EnvFile,
    GitWorktree,
    ReservedPort,
    TempDirectory,
    step_registry,
)
from orchestrator_core.resources.provision import Provision, ProvisionCollector
from orchestrator_core.saga import Outcome, Presence, Sagas, Unwind, receipt
from orchestrator_core.saga.journal_repair import repair_entries
from orchestrator_core.saga.planning import begin_entry, intent_entry
from orchestrator_core.testing import FakeTerminal
from orchestrator_core.testing.crashes import CrashPoints

TRIED = 40  #: Of about 100 effects that each act has.
SECRET = 'hunter2\'s "$PATH"\n'
SPEC = AgentSpec(type="a", prompt="do it", command=["sleep", "1000"])


@receipt("tests.flag")
class Flag:
    path: str


class RaiseFlag:
    """A step of a user's: a file, at a place that the environment says."""

    receipt_type = Flag

    def plan(self, ctx):
        return Flag(f"{os.environ['FLAGS']}/{ctx.saga_id}")

    def do(self, flag):
        Path(flag.path).touch()
        return flag

    def undo(self, flag, _why):
        if not Path(flag.path).exists():
            return Outcome.absent()
        Path(flag.path).unlink()
        return Outcome.undone()

    def probe(self, flag):
        return Presence.OURS if Path(flag.path).exists() else Presence.ABSENT


STEPS = [RaiseFlag]


@pytest.fixture
def flags(tmp_path, monkeypatch):
    place = tmp_path / "flags"
    place.mkdir()
    monkeypatch.setenv("FLAGS", str(place))
    return place


@pytest.fixture
def orch(tmp_path):
    return Orchestrator(tmp_path / "root", terminal=FakeTerminal())


@pytest.fixture
def task(orch):
    return orch.create_task("tried").id


def declare(orch, *modules):
    """Name modules in the root's settings, and open the root again."""
    path = orch.root / "orchestrator.toml"
    path.write_text(f"[steps]\nmodules = {json.dumps(modules)}\n")
    return Orchestrator(orch.root, terminal=orch._context._terminal, recover=False)


def links(claims):
    return sorted(path.name for path in claims.iterdir() if path.is_symlink())


# --- in a deployment --------------------------------------------------------------------------


def test_they_are_taken_before_the_agent_and_given_back_after_it(orch, task, tmp_path):
    """First on the stack, in the order given; last in the report, in reverse."""
    own = [TempDirectory(), EnvFile({"KEY": SECRET}), ReservedPort(claims=tmp_path / "claims")]

    agent = orch.deploy(task, SPEC, extra_steps=own)
    held = [frame.name for frame in orch.history(agent.id).stack]
    end = orch.terminate(agent.id)

    ours = ["temp_directory", "env_file", "reserved_port"]
    assert [*ours, "write_prompt"] == held[:4]
    assert ["write_prompt", *reversed(ours)] == [step["step"] for step in end.steps][-4:]
    assert {"undone"} == {step["result"] for step in end.steps[-4:]}
    assert [] == list((orch.root / "held").iterdir())
    assert [] == links(tmp_path / "claims")


@pytest.mark.parametrize("is_committed", [False, True])
def test_a_death_at_any_effect_leaves_all_or_nothing(is_committed):
    """Killed at each effect of a deployment, or of an end: recovery leaves none of them behind."""
    claims = Path(fast_place(), f"oc-claims-{os.getpid()}")
    own = [TempDirectory(), EnvFile({"KEY": SECRET}), ReservedPort(claims=claims)]

    def deploy(orch, *_):
        task_id = orch.create_task("tried").id
        return orch.deploy(task_id, SPEC, extra_steps=own).id

    def ended(orch, agent_id):
        orch.terminate(agent_id)

    def all_or_nothing(orch, *_):
        [*living] = orch.agents(status="active")
        assert len(living) == len(links(claims))
        assert len(living) == len([*orch.root.glob("held/*/*.env")])
        assert len(living) == len([*orch.root.glob("held/*/tmp")])

    if is_committed:
        points = CrashPoints()(ended, prepare=deploy, then=all_or_nothing, at_most=TRIED)
    else:
        points = CrashPoints()(deploy, then=all_or_nothing, at_most=TRIED)

    assert TRIED * 0.9 < len(points)
    assert [] == links(claims)
    (claims / "claims.lock").unlink()
    claims.rmdir()


def test_a_step_that_fails_leaves_nothing_and_is_named(orch, task, tmp_path):
    """The port is somebody else's: what was taken before it is given back."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = ReservedPort(other.getsockname()[1], claims=tmp_path / "claims")
        with pytest.raises(DeploymentError, match="no port") as caught:
            orch.deploy(task, SPEC, extra_steps=[TempDirectory(), port])

    assert {"temp_directory", "reserved_port"} <= caught.value.resources_cleaned.keys()
    assert {True} == set(caught.value.resources_cleaned.values())
    assert () == caught.value.leaked
    assert [] == list((orch.root / "held").iterdir())
    assert [] == links(tmp_path / "claims")


def test_a_secret_is_in_its_own_file_and_nowhere_else(orch, task, caplog):
    """Not in the journal, not in a registry, not in a log, not in what an error says."""
    caplog.set_level(logging.DEBUG)
    files = EnvFile({"KEY": "hunter2"})

    agent = orch.deploy(task, SPEC, extra_steps=[files])
    with_it = [p for p in orch.root.rglob("*") if p.is_file() and b"hunter2" in p.read_bytes()]
    with pytest.raises(OrchestratorError) as caught:
        orch.deploy(task, SPEC, extra_steps=[files, EnvFile({"KEY": "hunter2"}, name="second")])
    told = [repr(files), caplog.text, str(caught.value.to_dict()), repr(orch.history(agent.id))]

    [path] = with_it
    assert "env_file.env" == path.name
    assert 0o600 == stat.S_IMODE(path.stat().st_mode)
    assert [] == [text for text in told if "hunter2" in text]
    assert "KEY" in str(caught.value)


@pytest.mark.parametrize(
    ("own", "named"),
    [
        ([TempDirectory(variable="ORCHESTRATOR_ROOT")], "ORCHESTRATOR_ROOT"),
        ([TempDirectory(variable="MINE")], "MINE"),
        ([TempDirectory(name="agent_id")], "agent_id"),
        ([TempDirectory(), TempDirectory()], "two steps"),
    ],
)
def test_a_name_with_a_meaning_is_no_steps_to_give(orch, task, own, named):
    """Nor does one of two win: the deployment is refused, and leaves nothing."""
    spec = AgentSpec(type="a", prompt="do it", command=["sleep", "1"], env={"MINE": "yes"})

    with pytest.raises(OrchestratorError, match=named):
        orch.deploy(task, spec, extra_steps=own)

    assert [] == list(orch.root.glob("held/*"))


def test_placeholders_are_replaced_once_and_other_braces_stay():
    given = ProvisionCollector()
    given.add("one", Provision(placeholders={"a": "{b}", "b": "B"}))

    assert "{b} B {c} {" == given.merged.replaced("{a} {b} {c} {")


# --- who knows them ---------------------------------------------------------------------------


def test_a_step_that_nobody_else_could_undo_is_refused(orch, task, flags):
    """Before anything is taken; the hint says how it is declared."""
    with pytest.raises(InvalidInput, match=r"tests\.flag.*\[steps\] in orchestrator.toml"):
        orch.deploy(task, SPEC, extra_steps=[RaiseFlag()])

    assert [] == orch.agents()
    assert [] == list(flags.iterdir())


def test_a_declared_step_is_undone_by_others(orch, task, flags):
    orch = declare(orch, __name__)
    agent = orch.deploy(task, SPEC, extra_steps=[RaiseFlag()])
    assert [agent.id] == [path.name for path in flags.iterdir()]

    other = Orchestrator(orch.root, terminal=orch._context._terminal, recover=False)
    end = other.terminate(agent.id)

    assert "tests.flag" == end.steps[-1]["step"]
    assert [] == list(flags.iterdir())


@pytest.mark.parametrize("modules", [[], ["no.such.module"]])
def test_a_step_that_is_not_known_any_more_leaves_its_saga_stuck(orch, task, flags, modules):
    """All else is given back; the report names the step, and what to do. Declared, it recovers."""
    orch = declare(orch, __name__)
    agent = orch.deploy(task, SPEC, extra_steps=[RaiseFlag()])

    orch = declare(orch, *modules)
    end = orch.terminate(agent.id)
    told = "".join(end.errors)

    assert not end.success
    assert "tests.flag" in told
    assert "[steps] in orchestrator.toml" in told
    assert [] == modules or "No module named 'no'" in told
    assert ["failed"] == [s["result"] for s in end.steps if s["result"] not in {"undone", "absent"}]
    assert "stuck" == orch.history(agent.id).state.value
    assert any(finding.kind.value == "stuck" for finding in orch.sweep().findings)
    assert 1 == len(list(flags.iterdir()))

    report = declare(orch, __name__).recover(force=True)
    assert report.unwound[agent.id].closed
    assert [] == list(flags.iterdir())


@pytest.mark.parametrize("lost", ["begin", "tee_log"])
def test_a_damaged_journal_gives_them_back_last_all_the_same(lost):
    """What the plan of an agent does not know stays below what it does: the agent goes first."""
    stack = ["tests.flag", "write_prompt", "tee_log", "spawn_tmux"]
    planned = {name: Flag(name) for name in stack[1:]}
    entries = [begin_entry("s", {}, stack), *(intent_entry(name, Flag(name)) for name in stack)]
    left = [e for e in entries if lost not in (e.kind, e.data.get("step"))]

    whole = repair_entries("s", left, lambda *_: planned)

    assert stack == [entry.data["step"] for entry in whole if entry.kind == "intent"]


def test_an_entry_point_makes_a_step_known(monkeypatch):
    """Of the type's name, in our group; a class is called without arguments."""
    steps = step_registry.StepRegistry([])
    point = EntryPoint("tests.flag", f"{__name__}:RaiseFlag", step_registry.GROUP)
    asked = []

    def entry_points(**which):
        asked.append(which)
        return [point] if which == {"group": step_registry.GROUP, "name": "tests.flag"} else []

    monkeypatch.setattr("importlib.metadata.entry_points", entry_points)

    assert isinstance(steps["tests.flag"], RaiseFlag)
    assert steps["tests.flag"] is steps["tests.flag"]
    assert 1 == len(asked)
    monkeypatch.setattr("importlib.metadata.entry_points", lambda **_: [point])
    with pytest.raises(UnknownStep, match="another type"):
        steps["tests.other"]


class EntryPoint:
    def __init__(self, name, value, group):
        self.name, self.value, self.group = name, value, group

    def load(self):
        return RaiseFlag


def test_ours_are_known_to_everybody_and_imported_when_a_journal_asks():
    code = """
import sys
from orchestrator_core.resources import STEP_TYPES
from orchestrator_core.resources.step_registry import StepRegistry
steps = StepRegistry([])
assert not [name for name, _ in STEP_TYPES.values() if name in sys.modules]
for kind in STEP_TYPES:
    assert steps[kind].receipt_type is not None
assert "orchestrator_core.system.tmux" not in sys.modules
assert "orchestrator_core.orchestrator" not in sys.modules
"""
    ran = subprocess.run([sys.executable, "-c", code], cwd=_top(), capture_output=True, check=False)

    assert (0, b"") == (ran.returncode, ran.stderr)


def test_they_are_written_with_what_anybody_has():
    """Of this library: sagas, processes, locks, errors; of agents and terminals, nothing."""
    allowed = {
        *("saga", "exceptions", "system", "resources"),
        *("supervisor", "model"),  # The helper's alone: what it runs below.
    }
    found = {}
    for path in (_top() / "orchestrator_core" / "resources").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("orchestrator_"):
                parts = node.module.split(".")[1:] or [alias.name for alias in node.names]
                found.setdefault(parts[0], set()).add(path.stem)

    assert {} == {name: where for name, where in found.items() if name not in allowed}
    assert {"subprocess_step"} == found["supervisor"] | found["model"]


def _top():
    return Path(step_registry.__file__).parents[2]


# --- directories and secrets ------------------------------------------------------------------


@pytest.fixture
def sagas(tmp_path):
    """Sagas without agents, with nothing but steps of one's own."""

    begun = []

    def begin(*steps, saga_id="s", **values):
        made = Sagas(tmp_path / "sagas", steps=step_registry.StepRegistry([]))
        values = {"held": str(tmp_path / "held"), **values}
        begun.append(made.begin(saga_id, steps, values=values))
        return begun[-1]

    yield begin
    for saga in begun:
        saga.release()


def held(begin, *steps, **values):
    """Do all steps; return the saga, to be unwound, and the first one's receipt."""
    saga = begin(*steps, **values)
    saga.run()
    saga.commit()
    return saga, saga.receipt(steps[0].receipt_type)


DONE = Unwind.terminal("done")


def test_a_directory_goes_with_all_that_is_in_it_and_nothing_else(sagas, tmp_path):
    """Read-only directories as well; what a symlink leads to stays."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    saga, made = held(sagas, TempDirectory())
    deep = Path(made.path, "cache", "deep")
    deep.mkdir(parents=True)
    (deep / "file").write_text("12345")
    (deep / "link").symlink_to(tmp_path / "mine")
    for directory in (deep, deep.parent):
        directory.chmod(0)

    report = saga.unwind(DONE)

    assert report.closed
    assert not (tmp_path / "held").exists()
    assert (tmp_path / "mine" / "file").exists()


def test_a_directory_elsewhere_is_below_one_of_the_sagas_own(sagas, tmp_path):
    saga, made = held(sagas, TempDirectory(directory=tmp_path / "big"), root_id="abcd")
    assert str(tmp_path / "big" / "oc_abcd_s" / "tmp") == made.path

    saga.unwind(DONE)

    assert [] == list((tmp_path / "big").iterdir())


def test_a_place_that_others_can_enter_is_refused(sagas, tmp_path):
    (tmp_path / "held").mkdir(mode=0o755)
    (tmp_path / "held").chmod(0o755)

    with pytest.raises(OrchestratorError, match="open to others"), sagas(EnvFile({"A": "b"})) as s:
        s.run()


def test_a_shell_reads_back_what_an_env_file_holds(sagas):
    saga, made = held(sagas, EnvFile({"KEY": SECRET, "B": ""}))

    said = subprocess.check_output(["sh", "-c", f'. {made.path}; printf "%s|%s" "$KEY" "$B"'])

    assert f"{SECRET}|" == said.decode()
    saga.unwind(DONE)


@pytest.mark.parametrize("values", [{"A B": "secret"}, {"": "secret"}, {"A": "sec\0ret"}])
def test_what_no_environment_can_hold_is_refused_without_being_shown(values):
    with pytest.raises(InvalidInput) as caught:
        EnvFile(values)

    assert "sec" not in str(caught.value)


# --- ports --------------------------------------------------------------------------------------


@pytest.fixture
def port(tmp_path):
    def make(*args, **how):
        return ReservedPort(*args, claims=tmp_path / "claims", **how)

    return make


def test_no_two_get_the_same_port(sagas, port, tmp_path):
    """Of three there are, three get one each, and the fourth none."""
    taken = []
    for number in range(3):
        saga, made = held(
            sagas, port(within=(20011, 20013)), saga_id=f"s{number}", held=_h(tmp_path, number)
        )
        taken.append((saga, made.number))
    with pytest.raises(OrchestratorError, match="no port"):
        held(sagas, port(within=(20011, 20013)), saga_id="s3", held=_h(tmp_path, 3))

    assert {20011, 20012, 20013} == {number for _, number in taken}
    taken[1][0].unwind(DONE)
    _, made = held(sagas, port(within=(20011, 20013)), saga_id="s4", held=_h(tmp_path, 4))
    assert taken[1][1] == made.number


def _h(tmp_path, number):
    return str(tmp_path / f"held{number}")


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::1"])
def test_a_port_that_somebody_has_is_not_given(sagas, port, host):
    """On whichever address."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as other:
        try:
            other.bind((host, 0))
        except OSError:
            return  # A machine without IPv6 has nobody there.
        with pytest.raises(OrchestratorError, match="no port"):
            held(sagas, port(other.getsockname()[1]))


def test_the_claim_of_a_root_that_is_gone_is_taken_over(sagas, port, tmp_path):
    """Whoever removes a root by hand leaves no port taken for ever."""
    (tmp_path / "claims").mkdir(mode=0o700)
    (tmp_path / "claims" / "20021").symlink_to(tmp_path / "gone" / "port.port")

    _, made = held(sagas, port(20021))

    assert 20021 == made.number


def test_only_ones_own_claim_is_given_back(sagas, port, tmp_path):
    """Planned, and never done: it was another's all the time."""
    theirs, _ = held(sagas, port(20031), saga_id="theirs", held=_h(tmp_path, 1))
    ours = sagas(port(20031), saga_id="ours", held=_h(tmp_path, 2))

    with pytest.raises(OrchestratorError, match="no port"), ours:
        ours.run()

    assert ["20031"] == links(tmp_path / "claims")
    assert {"reserved_port": Presence.OURS} == theirs.probe()


def test_the_kernels_own_choice_is_left_to_the_kernel(sagas, port, monkeypatch):
    """Whoever binds port 0 gets none of ours, and we none of theirs."""
    monkeypatch.setattr("orchestrator_core.resources.port._ephemeral_range", lambda: (20041, 20049))

    _, made = held(sagas, port(within=(20040, 20049)))

    assert 20040 == made.number


# --- worktrees ----------------------------------------------------------------------------------


def git(where, *arguments):
    who = ["-c", "user.name=A", "-c", "user.email=a@b"]
    return subprocess.check_output(["git", *who, *arguments], cwd=where, text=True).strip()


@pytest.fixture
def repository(tmp_path):
    made = tmp_path / "repository"
    git(tmp_path, "init", "-q", str(made))
    (made / "file").write_text("one\n")
    (made / ".gitignore").write_text("*.o\n")
    git(made, "add", ".")
    git(made, "commit", "-q", "-m", "one")
    return made


def of_agents(repository):
    """Return the agents' branches, and how many worktrees there are but the first."""
    trees = git(repository, "worktree", "list").splitlines()
    return git(repository, "for-each-ref", "--format=%(refname)", "refs/heads/agent/"), len(
        trees
    ) - 1


def test_a_worktree_without_work_goes_with_its_branch(sagas, repository):
    saga, made = held(sagas, GitWorktree(repository))
    assert ("refs/heads/agent/s", 1) == of_agents(repository)
    assert "one\n" == Path(made.path, "file").read_text()
    Path(made.path, "built.o").touch()

    assert "undone" == saga.unwind(DONE).steps[0].result

    assert ("", 0) == of_agents(repository)
    assert not Path(made.path).parent.exists()


def untracked(tree):
    (tree / "new").touch()


def changed(tree):
    (tree / "file").write_text("two\n")


def committed_on_no_branch(tree):
    git(tree, "checkout", "-q", "--detach")
    git(tree, "commit", "-q", "--allow-empty", "-m", "loose")


def not_git_any_more(tree):
    (tree / ".git").unlink()
    untracked(tree)


@pytest.mark.parametrize(
    "work", [untracked, changed, committed_on_no_branch, not_git_any_more], ids=lambda w: w.__name__
)
@pytest.mark.parametrize("why", [DONE, Unwind.rollback("it died early")], ids=["end", "rollback"])
def test_a_worktree_with_work_in_it_stays_and_the_report_says_where(sagas, repository, work, why):
    """Also if the deployment failed: an agent that died within its grace may have worked."""
    saga, made = held(sagas, GitWorktree(repository))
    work(Path(made.path))

    report = saga.unwind(why)

    assert report.closed
    assert "left" == report.steps[0].result
    assert made.path in report.steps[0].detail["kept"]
    assert Path(made.path).is_dir()
    assert "refs/heads/agent/s" == of_agents(repository)[0]


def test_a_worktree_that_cannot_be_looked_at_is_not_taken_for_gone(sagas, repository):
    """Its work would go with its branch."""
    saga, made = held(sagas, GitWorktree(repository))
    place = Path(made.path).parent
    changed(Path(made.path))
    place.rename(place.with_name("away"))
    place.symlink_to(place)

    assert saga.unwind(DONE).steps[0].failed
    assert {"git_worktree": Presence.UNKNOWN} == saga.probe()
    place.unlink()
    place.with_name("away").rename(place)

    assert "left" == saga.unwind(DONE).steps[0].result
    assert ("refs/heads/agent/s", 1) == of_agents(repository)


def test_commits_that_nobody_else_has_keep_the_branch(sagas, repository):
    saga, made = held(sagas, GitWorktree(repository))
    git(made.path, "commit", "-q", "--allow-empty", "-m", "work")

    step = saga.unwind(DONE).steps[0]

    assert ("left", 1) == (step.result, step.detail["commits"])
    assert "agent/s" in step.detail["kept"]
    assert not Path(made.path).exists()
    assert ("refs/heads/agent/s", 0) == of_agents(repository)


def test_commits_that_were_merged_keep_nothing(sagas, repository):
    saga, made = held(sagas, GitWorktree(repository))
    git(made.path, "commit", "-q", "--allow-empty", "-m", "work")
    git(repository, "merge", "-q", "--ff-only", "agent/s")

    assert "undone" == saga.unwind(DONE).steps[0].result
    assert ("", 0) == of_agents(repository)


def test_another_agents_branch_saves_no_commits(sagas, repository, tmp_path):
    """It may go at the same moment, and then both would be lost."""
    saga, made = held(sagas, GitWorktree(repository))
    git(made.path, "commit", "-q", "--allow-empty", "-m", "work")
    other, _ = held(
        sagas, GitWorktree(repository, base="agent/s"), saga_id="t", held=_h(tmp_path, 2)
    )

    assert "left" == saga.unwind(DONE).steps[0].result
    assert "undone" == other.unwind(DONE).steps[0].result


@pytest.mark.parametrize("lost", ["gitdir", "HEAD", ".git", "index"])
def test_a_worktree_half_made_goes_entirely(sagas, repository, lost):
    """Git was killed in the middle: what is there may be none that git would know."""
    step = GitWorktree(repository)
    saga = sagas(step)
    planned = saga.receipt(step.receipt_type)
    step.do(planned)
    (Path(planned.path, ".git") if lost == ".git" else planned.entry / lost).unlink()
    (planned.entry / "locked").write_text("initializing")

    with pytest.raises(KeyError), saga:
        raise KeyError("killed")

    assert ("", 0) == of_agents(repository)
    assert not planned.entry.exists()
    assert not Path(planned.path).parent.exists()


def test_a_repository_that_is_gone_takes_no_work_with_it(sagas, repository):
    saga, made = held(sagas, GitWorktree(repository))
    repository.rename(repository.with_name("moved"))

    report = saga.unwind(DONE)

    assert report.closed
    assert made.path in report.steps[0].detail["kept"]
    assert Path(made.path, "file").exists()


@pytest.mark.parametrize("how", ["no repository", "no commit", "no prefix"])
def test_what_no_worktree_can_be_made_of_is_refused_by_the_plan(sagas, tmp_path, repository, how):
    step = {
        "no repository": GitWorktree(tmp_path),
        "no commit": GitWorktree(repository, base="nowhere"),
        "no prefix": GitWorktree(repository, prefix=""),
    }[how]

    with pytest.raises(InvalidInput):
        sagas(step)


def test_the_environment_of_a_git_hook_leads_nowhere_else(sagas, repository, tmp_path, monkeypatch):
    """Whoever deploys from a hook has GIT_DIR and GIT_INDEX_FILE of another repository."""
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "index"))

    saga, made = held(sagas, GitWorktree(repository))

    assert Path(made.path, "file").exists()
    assert "undone" == saga.unwind(DONE).steps[0].result
