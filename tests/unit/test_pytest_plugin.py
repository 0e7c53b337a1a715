"""The fixtures for tests of users: their values, their checks, their cost."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from orchestrator_core.testing import Scene

pytest_plugins = ["pytester"]

TOP = Path(__file__).parents[2]
OURS = ["-p", "orchestrator_core.pytest_plugin", "-p", "no:cacheprovider"]

BEGIN = """
from pathlib import Path
import pytest
from orchestrator_core import AgentSpec, Orchestrator
from orchestrator_core.testing import Exits, FakeTerminal, Runs

def spec(program="sleep", **how):
    return AgentSpec(type="a", prompt="do it", command=[program, "1000"], **how)

def deploy(orch, **how):
    return orch.deploy(orch.create_task("a task").id, spec(**how))
"""


class KeptModules:
    """
    The modules of the package at the end of a run in this process.

    Pytester removes the modules that the run has imported from ``sys.modules``. Other modules
    still refer to them, and a second copy of a module breaks later tests.
    """

    def __init__(self):
        self.loaded = {}

    def pytest_unconfigure(self):
        modules = sys.modules.items()
        self.loaded = {name: m for name, m in modules if name.startswith("orchestrator_core")}


@pytest.fixture
def suite(pytester, monkeypatch):
    """Run a test file that uses the fixtures, as a user's project does."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # Ours may not be installed here.

    def run(text, *options):
        pytester.makepyfile(BEGIN + text)
        modules = KeptModules()
        result = pytester.runpytest_inprocess(*OURS, "-q", *options, plugins=[modules])
        sys.modules.update(modules.loaded)
        return result

    return run


# --- what it costs -------------------------------------------------------------------------


def test_a_project_without_the_fixtures_loads_only_the_plugin(tmp_path):
    code = (
        "import sys, pytest\n"
        f"pytest.main(['--collect-only', '-q', *{OURS!r}])\n"
        "names = ('orchestrator_core', 'attrs', 'msgspec', 'structlog', 'libtmux', 'portalocker')\n"
        "print('loaded', sorted(m for m in sys.modules if m.split('.')[0] in names))"
    )

    output = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(TOP), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    assert "loaded ['orchestrator_core', 'orchestrator_core.pytest_plugin']" in output


def test_the_plugin_is_registered_with_pytest():
    project = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]

    assert ["orchestrator_core.pytest_plugin"] == [*project["entry-points"]["pytest11"].values()]


def test_no_fixture_name_clashes_with_another_plugin(pytester, monkeypatch):
    """libtmux and anyio have pytest plugins, and are installed together with the package."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")

    def fixtures(*plugins):
        options = [option for plugin in plugins for option in ("-p", plugin)]
        output = pytester.runpytest_inprocess("--fixtures", "-v", *options).stdout.str()
        return set(re.findall(r"^(\w+)(?: \[\w+ scope\])? -- ", output, re.MULTILINE))

    usual = fixtures()
    offered = fixtures("orchestrator_core.pytest_plugin") - usual
    others = fixtures("libtmux.pytest_plugin", "anyio.pytest_plugin") - usual

    names = {"fake_terminal", "fake_agent", "orchestrator", "crash_points", "no_leaks"}
    assert names == {name for name in offered if not name.startswith("_")}
    assert {"server", "session"} <= others
    assert set() == offered & others


# --- what they give ----------------------------------------------------------------------------


def test_an_orchestrator_needs_no_tmux_and_leaves_no_root(suite, monkeypatch, tmp_path):
    (tmp_path / "sleep").write_text("#!/bin/sh\n")
    (tmp_path / "sleep").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))

    suite(
        """
ROOTS = []

@pytest.mark.parametrize("time", [1, 2])
def test_it(orchestrator, fake_terminal, time):
    agent = deploy(orchestrator)
    assert agent.tmux_session in [session.name for session in fake_terminal.sessions()]
    assert orchestrator.terminate(agent.id).success
    ROOTS.append(orchestrator.root)

def test_each_root_was_separate_and_is_gone():
    assert [False, False] == [root.parent.exists() for root in ROOTS]
    assert 2 == len(set(ROOTS))
"""
    ).assert_outcomes(passed=3)


def test_an_agent_that_exits_is_unwound_by_its_supervisor(suite):
    """No caller has to wait for it."""
    suite(
        """
def test_it(orchestrator, fake_terminal, no_leaks):
    fake_terminal.agents["sleep"] = Exits(3, after_s=60)
    agent = deploy(orchestrator)
    fake_terminal.pass_time(61)
    assert "failed" == orchestrator.agent(agent.id).status
"""
    ).assert_outcomes(passed=1)


def test_a_test_does_not_count_as_an_agent_though_one_may_run_it(suite, monkeypatch):
    monkeypatch.setenv("ORCHESTRATOR_AGENT_ID", "tester-120000-abcdef")
    monkeypatch.setenv("ORCHESTRATOR_TASK_ID", "TASK-20260101-120000-abcdefab")
    monkeypatch.setenv("ORCHESTRATOR_ROOT", "/nowhere")
    monkeypatch.setenv("CLAUDE_ORCHESTRATOR_MAX_AGENTS", "0")

    suite(
        """
def test_it(orchestrator):
    assert "orchestrator" == deploy(orchestrator).parent
"""
    ).assert_outcomes(passed=1)


def test_a_program_need_not_be_installed(suite):
    suite(
        """
def test_it(orchestrator, fake_agent):
    fake_agent("no-such-program", Exits(5, after_s=60))
    agent = deploy(orchestrator, program="no-such-program")
    assert 5 == orchestrator.wait(agent.id, timeout_s=61).exit_code
    fake_agent("no-such-program", Exits(0))
    agent = deploy(orchestrator, program="no-such-program")
    assert 0 == orchestrator.wait(agent.id, timeout_s=61).exit_code
"""
    ).assert_outcomes(passed=1)


# --- what is left ------------------------------------------------------------------------------


@pytest.mark.parametrize("fixtures", ["no_leaks, orchestrator", "orchestrator, no_leaks"])
def test_a_test_that_leaves_an_agent_fails_with_the_leftovers(suite, fixtures):
    result = suite(f"def test_it({fixtures}): deploy(orchestrator)")

    result.assert_outcomes(passed=1, errors=1)
    result.stdout.re_match_lines(
        [
            "left behind by the test:",
            r"saga a-\d+-\w+: committed",
            r"session agent_a-\d+-\w+",
            r"process \d+ \(supervisor\) of a-\d+-\w+",
            r"process \d+ \(sleep\) of a-\d+-\w+",
            r"file TASK-[^/]+/agent_prompt_a-.*",
        ]
    )


def test_a_test_that_ends_all_agents_passes(suite):
    """A fixture may end its agent after the test."""
    suite(
        """
@pytest.fixture
def agent(orchestrator):
    made = deploy(orchestrator)
    yield made
    orchestrator.terminate(made.id)

def test_by_itself(orchestrator, no_leaks):
    orchestrator.report_finding(deploy(orchestrator).id, "found")
    [agent] = orchestrator.agents()
    orchestrator.report_progress(agent.id, "completed")
    orchestrator.gc()
    orchestrator.sweep(reap=True)
    orchestrator.repair()

def test_by_a_fixture(agent, no_leaks):
    pass
"""
    ).assert_outcomes(passed=2)


def test_a_test_without_no_leaks_may_leave_agents(suite):
    suite("def test_it(orchestrator): deploy(orchestrator)").assert_outcomes(passed=1)


def test_a_root_that_the_test_opens_is_checked_as_well(suite):
    result = suite(
        """
def test_it(no_leaks, tmp_path):
    deploy(Orchestrator(tmp_path / "root", terminal=FakeTerminal()))
"""
    )

    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["session agent_a-*"])


@pytest.mark.parametrize(
    ("left", "message"),
    [
        ("stray", "process * (sleep-stray) of a-*"),
        ("file", "file TASK-*/run/stray.txt"),
        ("session", "session agent_left"),
    ],
)
def test_each_kind_of_leftover_is_found(suite, left, message):
    """In the records the agent has ended well."""
    result = suite(
        f"""
def test_it(orchestrator, fake_terminal, no_leaks):
    agent = deploy(orchestrator)
    orchestrator.terminate(agent.id)
    cookie = "oc_" + orchestrator._context.root_id + "_" + agent.id
    if {left!r} == "stray":
        fake_terminal._world.spawn("sleep-stray", cookie=cookie)
    elif {left!r} == "file":
        (orchestrator.root / agent.task_id / "run" / "stray.txt").touch()
    else:
        fake_terminal.start("agent_left", owner=cookie, argv=["sleep", "1"])
"""
    )

    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines([message])


@pytest.mark.tmux
def test_a_leftover_on_real_tmux_is_found(suite, scene):
    result = suite(f"def test_it(no_leaks): deploy(Orchestrator({str(scene.root)!r}))")

    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["session agent_a-*", "process * (sleep) of a-*"])


@pytest.mark.tmux
def test_real_tmux_without_leftovers_passes(suite, scene):
    suite(
        f"""
def test_it(no_leaks):
    orch = Orchestrator({str(scene.root)!r})
    assert orch.terminate(deploy(orch).id).success
"""
    ).assert_outcomes(passed=1)


# --- crashes, as a fixture ---------------------------------------------------------------------


def test_code_that_is_not_crash_safe_fails_with_the_crash_point(suite):
    """The code depends on a file that it writes too late."""
    result = suite(
        """
def hand_out(orch):
    agent = deploy(orch)
    (orch.root.parent / "mine").write_text(agent.id)

def test_it(crash_points):
    def check(orch):
        mine = orch.root.parent / "mine"
        assert [a.id for a in orch.agents()] == ([mine.read_text()] if mine.exists() else [])

    crash_points(hand_out, then=check, at_most=12)
"""
    )

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*killed * effect *, and recovered"])


def test_agents_of_crash_points_follow_the_scripts_of_the_fake(suite):
    suite(
        """
def test_it(crash_points, fake_agent, no_leaks):
    fake_agent("worker", Exits(0, after_s=60))
    ends = []

    def act(orch, task):
        orch.deploy(task.id, spec("worker"))

    def check(orch, task):
        ends.extend(orch.wait(agent.id, timeout_s=61).status for agent in orch.agents())

    crash_points(act, then=check, prepare=lambda orch: orch.create_task("a task"), at_most=6)
    assert ends and {"completed"} == set(ends)
"""
    ).assert_outcomes(passed=1)


def test_a_scene_leaves_nothing_on_the_disk():
    with Scene() as scene:
        scene.orchestrator().create_task("a task")
        place = scene.place

    assert not place.exists()
