"""The variables that are true for one process only reach no agent and no helper."""

from __future__ import annotations

import subprocess

import pytest

from orchestrator_core import AgentSpec, InvalidInput, Orchestrator
from orchestrator_core.deployment.steps import session
from orchestrator_core.resources import GitWorktree, Subprocess
from orchestrator_core.resources.provision import Provision
from orchestrator_core.saga import Context
from orchestrator_core.testing import FakeTerminal

OF_ONE_PROCESS = {
    *("CLAUDECODE", "CLAUDE_CODE_ENTRYPOINT", "NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID"),
    *("WATCHDOG_USEC", "INVOCATION_ID", "NODE_CHANNEL_FD", "npm_package_json", "TMUX", "STY"),
    *("GIT_DIR", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_CONFIG_COUNT", "OLDPWD"),
}
OF_THE_USER = {
    *("CLAUDE_CODE_USE_BEDROCK", "CLAUDE_CODE_OAUTH_TOKEN", "CLAUDE_CONFIG_DIR", "CODEX_HOME"),
    *("GEMINI_API_KEY", "GIT_AUTHOR_NAME", "GIT_CONFIG_GLOBAL", "npm_config_registry", "SANDBOX"),
    *("NODE_OPTIONS", "SSH_AUTH_SOCK", "MAKEFLAGS"),
}


@pytest.fixture
def inherited(monkeypatch):
    for name in OF_ONE_PROCESS | OF_THE_USER:
        monkeypatch.setenv(name, "the deployer's")


def spec(**how):
    return AgentSpec(type="a", prompt="do it", command=["sleep", "1000"], **how)


def helper_environment(tmp_path, **how):
    step = Subprocess(["sleep", "1000"], directory=tmp_path, **how)
    return step._launch(step.plan(Context("s")), Provision()).env


@pytest.mark.usefixtures("inherited")
def test_an_agent_gets_what_configures_the_users_programs_and_nothing_that_identifies_one():
    env = spec().environment({})

    assert set() == OF_ONE_PROCESS & env.keys()
    assert set() == OF_THE_USER - env.keys()


@pytest.mark.usefixtures("inherited")
def test_a_helper_gets_no_more_than_an_agent(tmp_path):
    env = helper_environment(tmp_path)

    assert set() == OF_ONE_PROCESS & env.keys()
    assert set() == OF_THE_USER - env.keys()


@pytest.mark.usefixtures("inherited")
def test_a_variable_that_the_spec_sets_is_passed_on(tmp_path):
    own = {"CLAUDECODE": "1", "GIT_DIR": "/srv/repository"}

    assert own.items() <= spec(env=own).environment({}).items()
    assert own.items() <= helper_environment(tmp_path, env=own).items()


def test_every_variable_that_git_itself_calls_local_stays_behind(monkeypatch):
    named = subprocess.check_output(["git", "rev-parse", "--local-env-vars"], text=True).split()
    for name in named:
        monkeypatch.setenv(name, "the deployer's")

    assert set() == {*named} & spec().environment({}).keys()


def test_a_worktree_and_a_spec_that_leads_git_elsewhere_are_refused_together(tmp_path):
    """Git in the worktree would commit to another repository. Nothing is taken."""
    orch = Orchestrator(tmp_path / "root", terminal=FakeTerminal())
    task = orch.create_task("tried").id

    with pytest.raises(InvalidInput, match=r"GIT_DIR.*git_worktree"):
        orch.deploy(task, spec(env={"GIT_DIR": "/x"}), extra_steps=[GitWorktree(tmp_path)])

    assert [] == orch.agents()
    assert not (orch.root / "held").exists()


def test_the_working_directory_that_the_environment_names_is_the_agents_own(
    tmp_path, monkeypatch, fake_scene
):
    monkeypatch.setenv("PWD", "/the/deployers")
    orch, launches, build = fake_scene.orchestrator(), [], session.build_launch

    def built(*arguments):
        launches.append(build(*arguments))
        return launches[-1]

    monkeypatch.setattr(session, "build_launch", built)

    orch.deploy(orch.create_task("tried").id, spec(cwd=tmp_path))

    assert [str(tmp_path)] == [launch.env["PWD"] for launch in launches]
    assert str(tmp_path) == helper_environment(tmp_path, cwd=tmp_path)["PWD"]
