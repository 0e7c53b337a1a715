"""The linger time: how long an agent may go on after it has reported its own end."""

from __future__ import annotations

import math

import pytest

from orchestrator_core import AgentSpec, GracePeriods, InvalidInput
from orchestrator_core.cli import commands
from orchestrator_core.cli.arguments import parser
from orchestrator_core.deployment import documents
from orchestrator_core.mcp.agent_kind import kind_from
from orchestrator_core.model import settings
from orchestrator_core.supervisor.launch import Launch
from orchestrator_core.testing import Runs


@pytest.fixture
def linger(monkeypatch, orchestrator, fake_agent, fake_terminal):
    """Return the linger time that the supervisor of a new agent gets."""

    def of_agent(*, preset="claude", toml=None, patience=None, **how):
        if toml is not None:
            file = orchestrator.root / "orchestrator.toml"
            file.write_text(toml)
            file.chmod(0o600)
        orch = type(orchestrator)(
            orchestrator.root,
            terminal=fake_terminal,
            processes=fake_terminal.processes,
            patience=patience,
        )
        program = fake_agent(preset or "mine", Runs())
        spec = AgentSpec(type="a", prompt="p", command=[program], preset=preset, **how)
        launches = []
        monkeypatch.setattr(
            documents, "Launch", lambda **values: launches.append(values) or Launch(**values)
        )
        agent = orch.deploy(orch.create_task("t").id, spec)
        orch.terminate(agent.id)
        return launches[-1]["linger_s"]

    return of_agent


@pytest.mark.parametrize("preset", ["claude", "codex", "gemini", "shell"])
def test_an_agent_with_a_preset_may_go_on_for_a_minute(linger, preset):
    """Its tool calls its service once more before it writes its answer."""
    assert 60 == linger(preset=preset)


def test_any_other_agent_may_go_on_for_a_second(linger):
    assert 1 == linger(preset=None)


@pytest.mark.parametrize("preset", ["claude", None])
def test_the_spec_comes_before_the_orchestrator_and_that_before_the_root(linger, preset):
    toml = "[agents]\nlinger_s = 7\n"
    given = GracePeriods(linger_s=5)

    assert 3 == linger(preset=preset, linger_s=3, patience=given, toml=toml)
    assert 0 == linger(preset=preset, linger_s=0, patience=given, toml=toml)
    assert math.inf == linger(preset=preset, linger_s=math.inf, toml=toml)
    assert 5 == linger(preset=preset, patience=given, toml=toml)
    assert 7 == linger(preset=preset, patience=GracePeriods(term_s=5), toml=toml)
    assert (60 if preset else 1) == linger(preset=preset, toml="[agents]\n")


@pytest.mark.parametrize("value", [-1, math.nan, "5"])
def test_a_linger_time_that_is_no_time_is_refused(value):
    with pytest.raises(InvalidInput, match="linger_s"):
        AgentSpec.claude(prompt="p", linger_s=value)


@pytest.mark.parametrize("toml", ["[agents]\nlinger_s = -5\n", "[agents]\nlinger = 5\n", "?"])
def test_settings_that_cannot_be_read_set_nothing(linger, toml):
    """Agents are deployed all the same; the commands that need the settings refuse them."""
    assert 60 == linger(toml=toml)


def test_the_command_line_and_the_settings_of_a_server_set_it():
    line = "deploy --task t --type a --prompt p --preset shell --linger 4"
    of_server = settings.Mcp(agent_preset="claude", linger_s=6)
    kind = kind_from(of_server)

    assert 4 == commands._spec(parser().parse_args(line.split())).linger_s
    assert 6 == kind.spec(kind="a", prompt="p", parent=None, cwd=None).linger_s
