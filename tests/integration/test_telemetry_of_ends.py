"""Ends in other processes have a link to the trace of the deployment."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.traces import Traces

pytestmark = pytest.mark.tmux

TESTS = Path(__file__).parents[1]

#: A second process with a separate provider.
ANOTHER = f"""
import json, sys
sys.path[:0] = [{str(TESTS.parent)!r}, {str(TESTS)!r}]
from orchestrator_core import Orchestrator
from support.traces import Traces

traces = Traces()
tracing = traces.observer()
root, agent, what = sys.argv[1:]
orch = Orchestrator(root, recover=False, observer=tracing)
if what == "record_end":
    tracing.record_end(orch.history(agent))
else:
    getattr(orch, what)(agent)
[unwinding] = traces.named("unwind saga")
print(json.dumps({{
    "links": [f"{{link.context.trace_id:032x}}-{{link.context.span_id:016x}}"
              for link in unwinding.links],
    "by": unwinding.attributes["orchestrator_core.unwind.by"],
    "reason": unwinding.attributes["orchestrator_core.unwind.reason"],
    "steps": [span.name for span in traces.below(unwinding)],
}}))
"""


@pytest.fixture
def traces():
    return Traces()


def run_another(scene, agent, what):
    output = subprocess.check_output(
        [sys.executable, "-c", ANOTHER, str(scene.root), agent.id, what], text=True
    )
    return json.loads(output)


def only_run(traces):
    [run] = traces.named("run saga")
    return f"{run.context.trace_id:032x}-{run.context.span_id:016x}"


def steps_of(traces):
    return [span.name.removeprefix("do ") for span in traces.below(*traces.named("run saga"))]


def test_an_end_by_the_supervisor_has_no_spans_until_it_is_recorded(scene, traces):
    """No application configures a provider in the supervisor. Any process can make the spans
    from the journal afterwards, with the link to the deployment."""
    orch = scene.orchestrator(observer=traces.observer())
    task = orch.create_task("Trace").id
    agent = orch.deploy(task, scene.spec("sh", "-c", f"read x <{scene.gate('gate')}"))
    scene.let_go("gate")
    orch.wait(agent.id, timeout_s=20)

    assert [] == traces.named("unwind saga")
    spans = run_another(scene, agent, "record_end")

    assert [only_run(traces)] == spans["links"]
    assert ("terminal", "exit") == (spans["reason"], spans["by"])
    assert [f"undo {step}" for step in reversed(steps_of(traces))] == spans["steps"]


@pytest.mark.parametrize("what", ["terminate", "recover"])
def test_an_end_in_another_process_that_traces_has_its_link_at_once(what, scene, traces):
    """That process ends the agent, or finds it dead with its supervisor."""
    orch = scene.orchestrator(observer=traces.observer())
    agent = orch.deploy(orch.create_task("Trace").id, scene.spec())
    if what == "recover":
        [supervisor] = scene.world.panes(agent.id)
        scene.kill(supervisor)
    spans = run_another(scene, agent, what)

    assert [only_run(traces)] == spans["links"]
    assert [f"undo {step}" for step in reversed(steps_of(traces))] == spans["steps"]
