"""An agent has the umask, priority and limits of its deployer, not of the server's first user."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator_core.supervisor import process_attributes

pytestmark = pytest.mark.tmux

#: Takes attributes and deploys an agent that prints its own.
DEPLOYER = """
import json, os, resource, sys
from orchestrator_core import AgentSpec, Orchestrator
root, task, code, umask, nice, files, cpus, killed = sys.argv[1:]
os.umask(int(umask))
os.nice(int(nice))
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (int(files), hard))
os.sched_setaffinity(0, json.loads(cpus))
open("/proc/self/oom_score_adj", "w").write(killed)
orch = Orchestrator(root, recover=False)
spec = AgentSpec(type="a", prompt="p", command=[sys.executable, "-c", code])
agent = orch.deploy(task, spec)
print(agent.id)
"""

PRINTER = """
import json, os, resource
mask = os.umask(0)
limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
killed = int(open("/proc/self/oom_score_adj").read())
print(json.dumps([mask, os.nice(0), limit, sorted(os.sched_getaffinity(0)), killed]))
"""


def deployed(scene, orch, task, wanted):
    """Deploy from a process with the attributes *wanted*; return those of the agent."""
    words = [json.dumps(value) for value in wanted]
    agent = subprocess.check_output(
        [sys.executable, "-c", DEPLOYER, str(scene.root), task, PRINTER, *words],
        cwd=scene.work,
        text=True,
        timeout=60,
    ).strip()
    assert "completed" == orch.wait(agent, timeout_s=30).status, orch.read_output(agent)
    return json.loads(orch.read_output(agent))


def test_each_agent_has_the_attributes_of_its_own_deployer(scene):
    """The first deployer starts the tmux server, which is the parent of all agents."""
    orch = scene.orchestrator()
    task = orch.create_task("tried").id
    cpus = sorted(os.sched_getaffinity(0))
    base = os.nice(0)
    killed = int(Path("/proc/self/oom_score_adj").read_text())
    first = [0o077, 0, 300, cpus[:1], killed]
    second = [0o022, 2, 700, cpus, min(killed + 100, 1000)]

    seen = [deployed(scene, orch, task, wanted) for wanted in (first, second)]

    assert [[m, min(base + n, 19), *rest] for m, n, *rest in (first, second)] == seen


def test_an_attribute_that_the_system_refuses_is_named_and_stops_nothing(stage):
    """No machine has this processor. The umask beside it is set all the same."""
    attributes = process_attributes.current() | {"cpus": [100_000], "umask": 0o123}

    stage.deploy("sh", "-c", "umask", attributes=attributes)
    stage.until_over()

    record = json.loads((stage.run / "started").read_text())
    assert "cpus" == record["not_set"]
    assert b"0123\n" == stage.log.read_bytes()


def test_a_hard_limit_that_cannot_be_raised_leaves_the_nearest(stage):
    """A process without privileges cannot raise one; one above the kernel's own is refused too."""
    number = resource.RLIMIT_NOFILE
    _, hard = resource.getrlimit(number)
    beyond = [(number, hard, 1 << 62)]

    stage.deploy("sh", "-c", "ulimit -S -n", attributes={"limits": beyond})
    stage.until_over()

    assert "limits" == json.loads((stage.run / "started").read_text())["not_set"]
    assert f"{hard}\n" == stage.log.read_text()
