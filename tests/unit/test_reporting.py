"""An agent's report is a separate program, as small as possible."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from orchestrator_core import InvalidInput
from orchestrator_core.cli import arguments

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
