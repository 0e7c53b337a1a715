"""
A process that an ordinary user's agent has started as root, as by sudo, on real tmux.

The kernel refuses the user's signals for it. It is named, and the agent is STUCK until it ends.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.needs import ORDINARY, as_ordinary_user

pytestmark = [pytest.mark.tmux, pytest.mark.needs("root", "ordinary user")]

TOP = Path(__file__).parents[2]
LIFE = f"""
import json, os, sys
sys.path[:0] = {[str(TOP), *filter(None, sys.path)]!r}
from orchestrator_core import AgentSpec, Orchestrator
from orchestrator_core.system.processes import GracePeriods
o = Orchestrator(sys.argv[1], patience=GracePeriods(term_s=0.3, kill_s=0.3))
if sys.argv[2] == "deploy":
    spec = AgentSpec(type="a", prompt="p", cwd="/", command=["sh", "-c", sys.argv[3]])
    print(o.deploy(o.create_task("t").id, spec).id)
elif sys.argv[2] == "end":
    print(json.dumps(o.terminate(sys.argv[3]).to_dict()))
else:
    found = o.sweep(reap=True)
    print(json.dumps({{"left": [each.what for each in found.left]}}))
"""


@pytest.fixture
def act(scene):
    """Call the library as an ordinary user, below whose directory is a setuid program."""
    scene.place.chmod(0o755)
    scene.root.mkdir()
    os.chown(scene.root, ORDINARY, ORDINARY)

    def run(*words):
        done = subprocess.run(
            as_ordinary_user(sys.executable, "-c", LIFE, str(scene.root), *words),
            capture_output=True,
            text=True,
            cwd="/",
            env={"PATH": os.environ["PATH"], "HOME": "/nonexistent"},
            check=False,
        )
        assert 0 == done.returncode, done.stderr
        return done.stdout.strip()

    return run


@pytest.fixture
def as_root(scene):
    """A command that runs its arguments as root, for any caller."""
    program = scene.place / "as_root"
    program.write_bytes(Path("/usr/bin/setpriv").read_bytes())
    program.chmod(0o4755)
    return f"{program} --reuid 0 --regid 0 --clear-groups"


@pytest.mark.parametrize(
    ("how", "dies_first"),
    [("", "nobody"), ("setsid ", "nobody"), ("", "the supervisor")],
    ids=["child", "daemon", "child-of-the-dead"],
)
def test_a_privileged_survivor_is_named_and_the_agent_is_stuck_until_it_ends(
    how, dies_first, scene, act, as_root
):
    ready = scene.gate("ready")
    (scene.work / "ready").chmod(0o666)
    script = f"{as_root} {how}sh -c 'echo $$ > {ready}; exec sleep 1000' & sleep 1000"
    agent_id = act("deploy", script)
    privileged = int(Path(ready).read_text())
    try:
        if dies_first == "the supervisor":
            for pid in scene.world.panes(agent_id):
                scene.kill(pid)

        end = json.loads(act("end", agent_id))

        assert (False, False) == (end["success"], end["verified_no_zombies"]), end
        assert [f"{privileged} (sleep)"] == end["survivors"]
        assert "another user" in "; ".join(end["errors"])
        # The run directory is gone. The journal still leads to the survivor.
        [what] = json.loads(act("sweep"))["left"]
        assert f"{privileged} (sleep)" in what
    finally:
        os.kill(privileged, signal.SIGKILL)

    assert [] == json.loads(act("sweep"))["left"]
