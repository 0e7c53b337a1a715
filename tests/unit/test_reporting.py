"""An agent's report is a separate program, as small as possible."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys

import pytest

from orchestrator_core import InvalidInput, StorageError
from orchestrator_core.cli import arguments
from orchestrator_core.saga import Journal

REPORT = """
import sys
from orchestrator_core.cli import main
assert main(["progress", "--status", "working", "--message", "half of it"]) == 0
print(*sys.modules)
"""


def test_a_report_imports_few_modules(fake_scene):
    """Each import would be paid by every report of every agent."""
    orch = fake_scene.orchestrator()
    task = orch.create_task("found").id
    agent = orch.deploy(task, fake_scene.spec()).id
    own = {"ORCHESTRATOR_AGENT_ID": agent, "ORCHESTRATOR_TASK_ID": task}
    ran = subprocess.run(
        [sys.executable, "-c", REPORT],
        env={**os.environ, **own, "ORCHESTRATOR_ROOT": str(orch.root)},
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(ran.stdout.split())

    assert "half of it" == orch.agent(agent).message
    assert {"msgspec", "orchestrator_core.deployment.reports"} <= loaded
    heavy = {"attr", "attrs", "libtmux", "portalocker", "psutil", "structlog", "shutil", "json"}
    assert set() == loaded & heavy
    rooms = {name.split(".")[1] for name in loaded if name.startswith("orchestrator_core.")}
    assert set() == rooms & {"saga", "presets", "resources", "reconcile"}
    assert set() == loaded & {
        f"orchestrator_core.operations.{name}" for name in ("alerts", "metrics", "retention")
    }


@pytest.mark.parametrize("columns", ["", "40", "200", "0", "wide"])
def test_help_is_as_wide_as_the_terminal(monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    arguments._columns.cache_clear()
    assert shutil.get_terminal_size().columns == arguments._columns()
    arguments._columns.cache_clear()


def test_the_parser_adds_arguments_to_the_called_command_only(monkeypatch):
    given = []
    monkeypatch.setitem(arguments.operations_arguments.COMMANDS, "gc", ("collect", given.append))
    top = arguments.parser()
    top.parse_args(["health"])
    assert [] == given
    top.parse_args(["gc"])
    assert "orchestrator-core gc" == given[0].prog


def test_an_invalid_report_from_inside_requests_no_end(fake_scene):
    """A refused report changes nothing, also if its status would end the agent."""
    orch = fake_scene.orchestrator()
    agent = orch.deploy(orch.create_task("a task").id, fake_scene.spec())

    with fake_scene.fake.inside(agent.tmux_session), pytest.raises(InvalidInput, match="101"):
        orch.report_progress(agent.id, "completed", progress=101)

    assert orch.history(agent.id).end_request is None
    assert orch.agent(agent.id).is_active


@pytest.mark.parametrize("where", ["inside", "outside"])
def test_a_report_of_an_end_that_cannot_be_written_requests_no_end(fake_scene, where):
    """The refused report is not carried out later, and can be repeated."""
    orch = fake_scene.orchestrator()
    agent = orch.deploy(orch.create_task("a task").id, fake_scene.spec())
    is_inside = where == "inside"
    inside = fake_scene.fake.inside(agent.tmux_session) if is_inside else contextlib.nullcontext()
    progress = orch.root / agent.task_id / "progress"
    progress.rename(progress.with_name("away"))
    progress.touch()

    with inside, pytest.raises(StorageError):
        orch.report_progress(agent.id, "completed")

    fake_scene.orchestrator(recover=True)
    assert orch.history(agent.id).end_request is None
    assert orch.agent(agent.id).is_active
    progress.unlink()
    progress.with_name("away").rename(progress)
    assert "completed" == orch.report_progress(agent.id, "completed").end.status


def test_a_report_of_an_end_whose_request_cannot_be_recorded_ends_nothing(fake_scene, monkeypatch):
    orch = fake_scene.orchestrator()
    agent = orch.deploy(orch.create_task("a task").id, fake_scene.spec())
    monkeypatch.setattr(Journal, "append", _refuse)

    with fake_scene.fake.inside(agent.tmux_session), pytest.raises(StorageError, match="full"):
        orch.report_progress(agent.id, "completed")

    monkeypatch.undo()
    fake_scene.orchestrator(recover=True)
    assert orch.history(agent.id).end_request is None
    assert orch.agent(agent.id).is_active


def _refuse(*_, **__):
    raise StorageError("the disk is full")
