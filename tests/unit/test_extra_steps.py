"""Extra steps in a deployment: taken first, given back last, known to every process that undoes."""

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

TRIED = 40  #: Out of about 100 effects of each act.
SECRET = 'hunter2\'s "$PATH"\n'
SPEC = AgentSpec(type="a", prompt="do it", command=["sleep", "1000"])


@receipt("tests.flag")
class Flag:
    path: str


class RaiseFlag:
    """A user's step: a file, in a directory that the environment names."""

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
    """Name modules in the root's settings, approve them, and open the root again."""
    path = orch.root / "orchestrator.toml"
    places = [str(Path(__file__).parents[2]), str(Path(__file__).parent)]
    path.write_text(f"[steps]\nmodules = {json.dumps(modules)}\npath = {json.dumps(places)}\n")
    orch.approve_settings()
    return Orchestrator(orch.root, terminal=orch._context._terminal, recover=False)


def links(claims):
    return sorted(path.name for path in claims.iterdir() if path.is_symlink())


# --- in a deployment --------------------------------------------------------------------------


def test_extra_steps_are_taken_before_the_agent_and_given_back_after_it(orch, task, tmp_path):
    """The steps are first on the stack, in the order given, and last in the report, in reverse."""
    own = [TempDirectory(), EnvFile({"KEY": SECRET}), ReservedPort(claims=tmp_path / "claims")]

    agent = orch.deploy(task, SPEC, extra_steps=own)
    held = [frame.name for frame in orch.history(agent.id).stack]
    end = orch.terminate(agent.id)

    extra = ["temp_directory", "env_file", "reserved_port"]
    assert [*extra, "write_prompt"] == held[:4]
    assert ["write_prompt", *reversed(extra)] == [step["step"] for step in end.steps][-4:]
    assert {"undone"} == {step["result"] for step in end.steps[-4:]}
    assert [] == list((orch.root / "held").iterdir())
    assert [] == links(tmp_path / "claims")


@pytest.mark.parametrize("is_committed", [False, True])
def test_a_death_at_any_effect_leaves_all_or_nothing(is_committed):
    """A deployment, or an end, is killed at each effect. Recovery leaves nothing behind."""
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
    """Another program has the port. The steps before it are undone."""
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
    """The secret is not in the journal, a registry, a log or an error."""
    caplog.set_level(logging.DEBUG)
    files = EnvFile({"KEY": "hunter2"})

    agent = orch.deploy(task, SPEC, extra_steps=[files])
    with_it = [p for p in orch.root.rglob("*") if p.is_file() and b"hunter2" in p.read_bytes()]
    with pytest.raises(OrchestratorError) as caught:
        orch.deploy(task, SPEC, extra_steps=[files, EnvFile({"KEY": "hunter2"}, name="second")])
    texts = [repr(files), caplog.text, str(caught.value.to_dict()), repr(orch.history(agent.id))]

    [path] = with_it
    assert "env_file.env" == path.name
    assert 0o600 == stat.S_IMODE(path.stat().st_mode)
    assert [] == [text for text in texts if "hunter2" in text]
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
def test_a_name_with_a_meaning_is_refused(orch, task, own, named):
    """The deployment is refused, and leaves nothing."""
    spec = AgentSpec(type="a", prompt="do it", command=["sleep", "1"], env={"MINE": "yes"})

    with pytest.raises(OrchestratorError, match=named):
        orch.deploy(task, spec, extra_steps=own)

    assert [] == list(orch.root.glob("held/*"))


def test_placeholders_are_replaced_once_and_other_braces_stay():
    given = ProvisionCollector()
    given.add("one", Provision(placeholders={"a": "{b}", "b": "B"}))

    assert "{b} B {c} {" == given.merged.replaced("{a} {b} {c} {")


# --- the step registry ---------------------------------------------------------------------------


def test_a_step_that_no_other_process_could_undo_is_refused(orch, task, flags):
    """Nothing is taken. The message has the line that declares the step."""
    with pytest.raises(InvalidInput, match=r"tests\.flag.*\[steps\] in orchestrator.toml"):
        orch.deploy(task, SPEC, extra_steps=[RaiseFlag()])

    assert [] == orch.agents()
    assert [] == list(flags.iterdir())


def test_a_declared_step_is_undone_by_other_processes(orch, task, flags):
    orch = declare(orch, __name__)
    agent = orch.deploy(task, SPEC, extra_steps=[RaiseFlag()])
    assert [agent.id] == [path.name for path in flags.iterdir()]

    other = Orchestrator(orch.root, terminal=orch._context._terminal, recover=False)
    end = other.terminate(agent.id)

    assert "tests.flag" == end.steps[-1]["step"]
    assert [] == list(flags.iterdir())


@pytest.mark.parametrize("modules", [[], ["no.such.module"]])
def test_a_step_that_is_no_longer_declared_leaves_its_saga_stuck(orch, task, flags, modules):
    """All other steps are undone. The report names the step and the remedy."""
    orch = declare(orch, __name__)
    agent = orch.deploy(task, SPEC, extra_steps=[RaiseFlag()])

    orch = declare(orch, *modules)
    end = orch.terminate(agent.id)
    errors = "".join(end.errors)

    assert not end.success
    assert "tests.flag" in errors
    assert "[steps] in orchestrator.toml" in errors
    assert [] == modules or "No module named 'no'" in errors
    assert ["failed"] == [s["result"] for s in end.steps if s["result"] not in {"undone", "absent"}]
    assert "stuck" == orch.history(agent.id).state.value
    assert any(finding.kind.value == "stuck" for finding in orch.sweep().findings)
    assert 1 == len(list(flags.iterdir()))

    report = declare(orch, __name__).recover(force=True)
    assert report.unwound[agent.id].closed
    assert [] == list(flags.iterdir())


@pytest.mark.parametrize("lost", ["begin", "tee_log"])
def test_a_repaired_journal_still_undoes_extra_steps_last(lost):
    """A step that is not derived from the agent's id stays at the bottom of the stack."""
    stack = ["tests.flag", "write_prompt", "tee_log", "spawn_tmux"]
    planned = {name: Flag(name) for name in stack[1:]}
    entries = [begin_entry("s", {}, stack), *(intent_entry(name, Flag(name)) for name in stack)]
    left = [e for e in entries if lost not in (e.kind, e.data.get("step"))]

    whole = repair_entries("s", left, lambda *_: planned)

    assert stack == [entry.data["step"] for entry in whole if entry.kind == "intent"]


def test_an_entry_point_makes_a_step_known(monkeypatch):
    """The entry point has the type's name, in the library's group. A class gets no arguments."""
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


def test_builtin_steps_are_imported_when_a_journal_names_them():
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


def test_builtin_steps_use_what_a_users_step_can_use():
    """The steps import sagas, processes, locks and errors, but no agents or terminals."""
    allowed = {
        *("saga", "exceptions", "system", "resources"),
        *("supervisor", "model"),  # Only for the helper, which runs below a supervisor.
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
    """Sagas without agents, with extra steps alone."""

    begun = []

    def begin(*steps, saga_id="s", **values):
        made = Sagas(tmp_path / "sagas", steps=step_registry.StepRegistry([]))
        values = {**values, "held": str(Path(values.get("held", tmp_path / "held"), saga_id))}
        begun.append(made.begin(saga_id, steps, values=values))
        return begun[-1]

    yield begin
    for saga in begun:
        saga.release()


def held(begin, *steps, **values):
    """Run all steps; return the saga, and the first step's receipt."""
    saga = begin(*steps, **values)
    saga.run()
    saga.commit()
    return saga, saga.receipt(steps[0].receipt_type)


DONE = Unwind.terminal("done")


def test_a_directory_is_removed_with_its_content_and_nothing_else(sagas, tmp_path):
    """Read-only directories are removed as well. The target of a symlink stays."""
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
    assert not (tmp_path / "held" / "s").exists()
    assert (tmp_path / "mine" / "file").exists()


def test_a_directory_elsewhere_is_in_the_sagas_private_directory(sagas, tmp_path):
    saga, made = held(sagas, TempDirectory(directory=tmp_path / "big"), root_id="abcd")
    assert str(tmp_path / "big" / "oc_abcd_s" / "tmp") == made.path

    saga.unwind(DONE)

    assert [] == list((tmp_path / "big").iterdir())


def test_a_private_directory_that_others_can_enter_is_refused(sagas, tmp_path):
    (tmp_path / "held" / "s").mkdir(mode=0o755, parents=True)
    (tmp_path / "held" / "s").chmod(0o755)

    with pytest.raises(OrchestratorError, match="open to others"), sagas(EnvFile({"A": "b"})) as s:
        s.run()


def test_a_shell_reads_the_values_of_an_env_file(sagas):
    saga, made = held(sagas, EnvFile({"KEY": SECRET, "B": ""}))

    output = subprocess.check_output(["sh", "-c", f'. {made.path}; printf "%s|%s" "$KEY" "$B"'])

    assert f"{SECRET}|" == output.decode()
    saga.unwind(DONE)


@pytest.mark.parametrize("values", [{"A B": "secret"}, {"": "secret"}, {"A": "sec\0ret"}])
def test_a_value_that_no_environment_can_hold_is_refused_and_not_shown(values):
    with pytest.raises(InvalidInput) as caught:
        EnvFile(values)

    assert "sec" not in str(caught.value)


# --- ports --------------------------------------------------------------------------------------


@pytest.fixture
def port(tmp_path):
    def make(*args, **how):
        return ReservedPort(*args, claims=tmp_path / "claims", **how)

    return make


def test_a_port_is_given_to_one_saga_only(sagas, port, tmp_path):
    """Of four sagas that want three ports, the fourth gets none."""
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
def test_a_port_in_use_is_not_given(sagas, port, host):
    """The port may be bound on any address."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as other:
        try:
            other.bind((host, 0))
        except OSError:
            return  # This machine has no IPv6.
        with pytest.raises(OrchestratorError, match="no port"):
            held(sagas, port(other.getsockname()[1]))


def test_a_claim_without_a_holder_is_taken_over(sagas, port, tmp_path):
    """A root that was removed by hand does not keep its ports."""
    (tmp_path / "claims").mkdir(mode=0o700)
    (tmp_path / "claims" / "20021").symlink_to(tmp_path / "gone" / "port.port")

    _, made = held(sagas, port(20021))

    assert 20021 == made.number


def test_an_undo_removes_only_its_own_claim(sagas, port, tmp_path):
    """The port was planned, but belongs to another saga."""
    theirs, _ = held(sagas, port(20031), saga_id="theirs", held=_h(tmp_path, 1))
    own_saga = sagas(port(20031), saga_id="ours", held=_h(tmp_path, 2))

    with pytest.raises(OrchestratorError, match="no port"), own_saga:
        own_saga.run()

    assert ["20031"] == links(tmp_path / "claims")
    assert {"reserved_port": Presence.OURS} == theirs.probe()


def test_the_kernels_ephemeral_ports_are_never_claimed(sagas, port, monkeypatch):
    """A program that binds port 0 gets another port."""
    monkeypatch.setattr("orchestrator_core.resources.port._ephemeral_range", lambda: (20041, 20049))

    _, made = held(sagas, port(within=(20040, 20049)))

    assert 20040 == made.number


# --- worktrees ----------------------------------------------------------------------------------


def git(where, *arguments):
    author = ["-c", "user.name=A", "-c", "user.email=a@b"]
    return subprocess.check_output(["git", *author, *arguments], cwd=where, text=True).strip()


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
    """Return the agents' branches, and the number of additional worktrees."""
    trees = git(repository, "worktree", "list").splitlines()
    return git(repository, "for-each-ref", "--format=%(refname)", "refs/heads/agent/"), len(
        trees
    ) - 1


def test_a_worktree_without_work_is_removed_with_its_branch(sagas, repository):
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


def without_git_metadata(tree):
    (tree / ".git").unlink()
    untracked(tree)


@pytest.mark.parametrize(
    "work",
    [untracked, changed, committed_on_no_branch, without_git_metadata],
    ids=lambda w: w.__name__,
)
@pytest.mark.parametrize("why", [DONE, Unwind.rollback("it died early")], ids=["end", "rollback"])
def test_a_worktree_with_unsaved_work_stays_and_the_report_has_its_path(
    sagas, repository, work, why
):
    """A failed deployment keeps the worktree, too: an agent may work within its grace period."""
    saga, made = held(sagas, GitWorktree(repository))
    work(Path(made.path))

    report = saga.unwind(why)

    assert report.closed
    assert "left" == report.steps[0].result
    assert made.path in report.steps[0].detail["kept"]
    assert Path(made.path).is_dir()
    assert "refs/heads/agent/s" == of_agents(repository)[0]


def test_an_unreadable_worktree_does_not_count_as_missing(sagas, repository):
    """Otherwise its branch, with the work, would be deleted."""
    saga, made = held(sagas, GitWorktree(repository))
    place = Path(made.path).parent
    changed(Path(made.path))
    place.rename(place.with_name("away"))
    place.symlink_to(place)

    step = saga.unwind(DONE).steps[0]

    assert ("left", True) == (step.result, str(place) in step.detail["kept"])
    place.unlink()
    place.with_name("away").rename(place)
    assert ("refs/heads/agent/s", 1) == of_agents(repository)


def test_commits_on_no_other_branch_keep_the_branch(sagas, repository):
    saga, made = held(sagas, GitWorktree(repository))
    git(made.path, "commit", "-q", "--allow-empty", "-m", "work")

    step = saga.unwind(DONE).steps[0]

    assert ("left", 1) == (step.result, step.detail["commits"])
    assert "agent/s" in step.detail["kept"]
    assert not Path(made.path).exists()
    assert ("refs/heads/agent/s", 0) == of_agents(repository)


def test_merged_commits_keep_nothing(sagas, repository):
    saga, made = held(sagas, GitWorktree(repository))
    git(made.path, "commit", "-q", "--allow-empty", "-m", "work")
    git(repository, "merge", "-q", "--ff-only", "agent/s")

    assert "undone" == saga.unwind(DONE).steps[0].result
    assert ("", 0) == of_agents(repository)


def test_commits_on_another_agents_branch_keep_the_branch(sagas, repository, tmp_path):
    """Both branches could be deleted at the same time."""
    saga, made = held(sagas, GitWorktree(repository))
    git(made.path, "commit", "-q", "--allow-empty", "-m", "work")
    other, _ = held(
        sagas, GitWorktree(repository, base="agent/s"), saga_id="t", held=_h(tmp_path, 2)
    )

    assert "left" == saga.unwind(DONE).steps[0].result
    assert "undone" == other.unwind(DONE).steps[0].result


@pytest.mark.parametrize("lost", ["gitdir", "HEAD", ".git", "index"])
def test_an_incomplete_worktree_is_removed(sagas, repository, lost):
    """Git was killed while it created the worktree, and may not know it."""
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


def test_a_worktree_of_a_missing_repository_stays(sagas, repository):
    saga, made = held(sagas, GitWorktree(repository))
    repository.rename(repository.with_name("moved"))

    report = saga.unwind(DONE)

    assert report.closed
    assert made.path in report.steps[0].detail["kept"]
    assert Path(made.path, "file").exists()


@pytest.mark.parametrize("how", ["no repository", "no commit", "no prefix"])
def test_a_plan_without_a_usable_repository_is_refused(sagas, tmp_path, repository, how):
    step = {
        "no repository": GitWorktree(tmp_path),
        "no commit": GitWorktree(repository, base="nowhere"),
        "no prefix": GitWorktree(repository, prefix=""),
    }[how]

    with pytest.raises(InvalidInput):
        sagas(step)


def test_the_environment_of_a_git_hook_is_not_used(sagas, repository, tmp_path, monkeypatch):
    """A deployer in a hook has GIT_DIR and GIT_INDEX_FILE of another repository."""
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "index"))

    saga, made = held(sagas, GitWorktree(repository))

    assert Path(made.path, "file").exists()
    assert "undone" == saga.unwind(DONE).steps[0].result
