"""Where the claims of ports are, and what another user can do to them."""

import shutil
import stat

import pytest

from orchestrator_core import AgentSpec, DeploymentError
from orchestrator_core.resources import ReservedPort, port


@pytest.fixture
def claims(tmp_path, monkeypatch):
    """The possible directories of claims, the best first; none exists."""
    places = [tmp_path / "run" / "ports", tmp_path / "tmp-ports", tmp_path / "home" / "ports"]
    monkeypatch.setattr(port, "_shared_claims", lambda: places)
    return places


def a_port(orchestrator):
    task = orchestrator.create_task("a task")
    spec = AgentSpec(type="a", prompt="do it", command=["sleep", "100"])
    return orchestrator.deploy(task.id, spec, extra_steps=[ReservedPort()])


def test_claims_are_in_the_best_directory_that_this_user_can_have(orchestrator, claims):
    a_port(orchestrator)
    assert [True, False, False] == [place.exists() for place in claims]
    assert 0o700 == stat.S_IMODE(claims[0].stat().st_mode)


@pytest.mark.parametrize("kind", ["file", "symlink", "open"])
def test_a_name_that_another_user_has_taken_is_passed_over(orchestrator, claims, kind):
    """Every deployment with a port was refused, and left something."""
    claims[0].parent.mkdir()
    if kind == "file":
        claims[0].touch()
    elif kind == "symlink":
        claims[0].symlink_to("elsewhere")
    else:
        claims[0].mkdir(mode=0o777)
        claims[0].chmod(0o777)
    agent = a_port(orchestrator)
    assert claims[1].is_dir()
    assert orchestrator.terminate(agent.id).success


def test_an_end_passes_over_claims_that_another_user_has_taken(orchestrator, claims):
    """A cleaner of /tmp removed them. The end was STUCK."""
    agent = a_port(orchestrator)
    shutil.rmtree(claims[0])
    claims[0].touch()
    end = orchestrator.terminate(agent.id)
    assert ((), True) == (end.errors, end.success)


def test_claims_in_all_directories_count(orchestrator, claims, tmp_path):
    """Before a login there is no runtime directory; after it there is."""
    claims[1].mkdir(mode=0o700)
    holder = tmp_path / "holder"
    holder.touch()
    (claims[1] / "20000").symlink_to(holder)
    task = orchestrator.create_task("a task")
    spec = AgentSpec(type="a", prompt="do it", command=["sleep", "100"])
    with pytest.raises(DeploymentError, match="no port 20000 is free"):
        orchestrator.deploy(task.id, spec, extra_steps=[ReservedPort(20000)])
    assert [] == orchestrator.agents()
