"""
An agent kills its supervisor and writes the supervisor's files itself, on real tmux.

It ends only itself by that. Nothing that it writes is a proof that its processes have ended.
"""

import sys
from pathlib import Path

import pytest
from support.world import wait_for_deaths

pytestmark = pytest.mark.tmux

#: A daemon without a cookie, which only the supervisor or a cgroup could find.
FORGER = """
import os, signal, sys
run = os.environ["ORCHESTRATOR_ROOT"] + "/" + os.environ["ORCHESTRATOR_TASK_ID"]
run += "/run/" + os.environ["ORCHESTRATOR_AGENT_ID"]
ready, forgery = sys.argv[1:]
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execve("/bin/sh", ["sh", "-c", 'echo $$ > "$0"; exec sleep 1000', ready], {})
    os._exit(0)
os.wait()
open(os.environ["GO"]).read() if forgery != "none" else None
signal.pause() if forgery == "none" else None
os.kill(os.getppid(), signal.SIGKILL)
if forgery == "exit":
    record = '{"code": 0, "signal": null, "ran_s": 1.0, "error": null, "cause": "exit", '
    record += '"contained": true, "forced": false, "cgroup": false, "secret": "secret-%032x"}'
    open(run + "/exit", "w").write(record % 0)
else:
    os.unlink(run + "/started")
    open(run + "/launch", "w").write("secret-%032x" % 0)
"""


@pytest.mark.parametrize("forgery", ["exit", "launch"])
def test_what_an_agent_writes_itself_proves_nothing(forgery, scene, monkeypatch):
    monkeypatch.setenv("ORCHESTRATOR_CONTAINMENT", "subreaper")
    orch = scene.orchestrator()
    ready = scene.gate("ready")
    env = {"GO": scene.gate("go")}
    spec = scene.spec(sys.executable, "-c", FORGER, ready, forgery, env=env)
    agent = orch.deploy(orch.create_task("tried").id, spec)
    supervisor = scene.world.panes(agent.id)
    daemon = int(Path(ready).read_text())
    try:
        living = [*supervisor, *scene.world.of_agent(agent.id)]
        scene.let_go("go")
        wait_for_deaths(living, timeout_s=20)
        end = orch.terminate(agent.id)

        assert (False, "scan") == (end.verified_no_zombies, end.method)
    finally:
        scene.kill(daemon)


def test_the_supervisors_own_record_is_a_proof(scene, monkeypatch):
    monkeypatch.setenv("ORCHESTRATOR_CONTAINMENT", "subreaper")
    orch = scene.orchestrator()
    ready = scene.gate("ready")
    agent = orch.deploy(
        orch.create_task("tried").id, scene.spec(sys.executable, "-c", FORGER, ready, "none")
    )
    Path(ready).read_text()

    end = orch.terminate(agent.id)

    assert (True, "subreaper") == (end.verified_no_zombies, end.method)
    assert [] == scene.world.leftovers()
