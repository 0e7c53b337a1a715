"""The programs in examples/ do what their docstrings promise."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from mcp import Client, StdioServerParameters
from support.mcp_wire import LONG_S, HeldTmux
from support.world import World

TOP = Path(__file__).parents[2]
EXAMPLES = TOP / "examples"


def run(place, program, *arguments, code=0):
    """Run an example in a directory, and return what it prints."""
    clean = {name: value for name, value in os.environ.items() if "ORCHESTRATOR" not in name}
    ran = subprocess.run(
        [sys.executable, *program, *arguments],
        cwd=place,
        env={**clean, "PYTHONPATH": str(TOP)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert code == ran.returncode, ran.stderr
    return ran.stdout


@pytest.mark.tmux
def test_a_fan_out_finds_something_about_every_file(short_tmp):
    """Six files, four agents at a time, six findings, and nothing left."""
    texts = short_tmp / "texts"
    texts.mkdir()
    for count in range(6):
        (texts / f"{count}.txt").write_text("line\n" * count)

    output = run(short_tmp, [EXAMPLES / "fan_out.py"], str(texts))
    world = World(short_tmp, short_tmp / ".agent-workspace")
    left = world.leftovers()
    world.end_everything()

    assert [f"{n}.txt: {n}.txt has {n} lines" for n in range(6)] == output.splitlines()
    assert [] == left


@contextlib.contextmanager
def a_world(place):
    """Inspect what a program does in its directory, and end all that it leaves."""
    world = World(place, place / ".agent-workspace")
    try:
        yield world
    finally:
        world.end_everything()


@pytest.mark.tmux
def test_an_interrupted_fan_out_leaves_no_agent_behind(scene):
    """Ctrl-C comes while one agent works and the next is being deployed."""
    texts = scene.place / "texts"
    texts.mkdir()
    for name in ("a", "b"):
        (texts / f"{name}.txt").write_text(name)
    held = HeldTmux(scene)
    program = [sys.executable, EXAMPLES / "fan_out.py", texts, "sh", "-c", "exec sleep 1000"]
    env = {**os.environ, "PYTHONPATH": str(TOP), "PATH": held.path}

    with a_world(scene.place) as world:
        ran = subprocess.Popen(program, cwd=scene.place, env=env, stderr=subprocess.DEVNULL)
        held.until_held()
        while not world.records():  # The first deployment calls tmux twice.
            held.let_go()
            held.until_held()
        ran.send_signal(signal.SIGINT)
        ran.wait(LONG_S)
        # The interrupt may come after Python has started tmux, and before it knows.
        with held.no_more():
            assert {} == world.until_alone()
            assert [] == world.until_closed()
        assert ["terminated"] == [record["status"] for record in world.records().values()]
        assert [] == world.leftovers()


@pytest.mark.tmux
def test_the_mcp_server_offers_its_own_tools_and_the_librarys_and_deploys(short_tmp):
    """A real client starts it over stdio, with hardly any environment, as clients do."""
    bare = ["-i", "HOME=/", f"PATH={os.environ['PATH']}", f"PYTHONPATH={TOP}"]
    program = [sys.executable, str(EXAMPLES / "mcp_server.py"), "sh", "-c", "cat; sleep 1000"]
    server = StdioServerParameters(
        command=shutil.which("env") or "env", args=[*bare, *program], cwd=short_tmp
    )

    async def use():
        async with Client(server) as client:

            async def call(tool, **how):
                result = await client.call_tool(tool, how)
                assert not result.is_error, result.content
                return result.structured_content

            names = {tool.name for tool in (await client.list_tools()).tools}
            task = (await call("create_real_task", description="Try"))["task_id"]
            agent = await call(
                "deploy_headless_agent", task_id=task, agent_type="worker", prompt="hello"
            )
            alive = await call("how_many_agents")
            assert [agent["tmux_session"]] == world.sessions()
            await call("kill_real_agent", task_id=task, agent_id=agent["agent_id"])
            return names, alive, await call("how_many_agents")

    with a_world(short_tmp) as world:
        names, alive, after = asyncio.run(use())

        assert {"how_many_agents", "deploy_headless_agent", "update_agent_progress"} <= names
        assert ({"result": 1}, {"result": 0}) == (alive, after)
        assert [] == world.leftovers()


@pytest.fixture
def repository(tmp_path):
    if shutil.which("git") is None:
        pytest.fail("git is needed: apt-get install git")
    made = tmp_path / "repository"
    author = ["-c", "user.name=A", "-c", "user.email=a@b"]
    for words in (["init", "-q"], [*author, "commit", "-q", "--allow-empty", "-m", "x"]):
        made.mkdir(exist_ok=True)
        subprocess.run(["git", *words], cwd=made, check=True)
    return made


def held(tmp_path, repository):
    """Return how many worktrees git has, and how many ports are claimed."""
    output = subprocess.check_output(["git", "worktree", "list"], cwd=repository, text=True)
    ports = tmp_path / ".own-steps" / "ports"
    return len(output.splitlines()) - 1, len(list(ports.glob("*"))) if ports.exists() else 0


def test_own_steps_hold_both_or_neither(tmp_path, repository):
    """One process takes them, another gives them back."""
    program = [EXAMPLES / "own_steps.py"]
    name, path, _port = run(tmp_path, program, "take", str(repository)).split()
    assert (1, 1) == held(tmp_path, repository)
    assert (Path(path) / ".git").exists()

    output = run(tmp_path, program, "give-back", name)

    assert ["example.port undone", "example.worktree undone"] == output.splitlines()
    assert (0, 0) == held(tmp_path, repository)


@pytest.mark.parametrize("made", [["init"], ["init", "--bare"], None])
def test_own_steps_that_fail_leave_nothing(tmp_path, made):
    """Without a repository the plan refuses; without a commit ``do`` fails."""
    place = tmp_path / "repository"
    if made:
        subprocess.run(["git", *made, "-q", place], check=True)

    run(tmp_path, [EXAMPLES / "own_steps.py"], "take", str(place), code=1)

    assert [] == list((tmp_path / ".own-steps").glob("worktrees/*"))
    assert [] == list((tmp_path / ".own-steps").glob("ports/*"))
    assert [] == list((tmp_path / ".own-steps").glob("sagas/*.jsonl"))


@pytest.mark.parametrize("step", ["AddWorktree", "ClaimPort"])
def test_own_steps_killed_with_9_are_recovered(tmp_path, repository, step):
    """The process is killed after a step's ``do``, before the journal has it."""
    killer = tmp_path / "killer.py"
    killer.write_text(
        f"""
import os, signal, sys
sys.path.insert(0, {str(EXAMPLES)!r})
import own_steps

done = own_steps.{step}.do
own_steps.{step}.do = lambda self, it: (done(self, it), os.kill(os.getpid(), signal.SIGKILL))
own_steps.take(own_steps.Sagas(own_steps.STATE / "sagas", steps=own_steps.STEPS), sys.argv[1])
"""
    )
    run(tmp_path, [killer], str(repository), code=-signal.SIGKILL)
    assert (1, int(step == "ClaimPort")) == held(tmp_path, repository)

    run(tmp_path, [EXAMPLES / "own_steps.py"], "recover")

    assert (0, 0) == held(tmp_path, repository)


def test_the_tests_of_the_insistent_example_pass(tmp_path, monkeypatch):
    """The tests need neither tmux nor an agent's program, and run from any directory."""
    programs = tmp_path / "bin"
    programs.mkdir()
    shutil.copy2("/bin/sh", programs / "sh")
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # The plugin may not be installed.
    options = ["-p", "orchestrator_core.pytest_plugin", "-p", "no:cacheprovider"]

    assert "5 passed" in run(tmp_path, ["-m", "pytest", "-q", *options, EXAMPLES / "insistent"])
