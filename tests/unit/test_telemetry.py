"""Sagas as OpenTelemetry spans, in memory, with fake sessions and processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from opentelemetry import baggage, context, trace
from saga_kit import Shelf, Thing
from support.fakes import a_fake_scene
from support.traces import Traces, is_linked

from orchestrator_core import AgentSpec, DeploymentError
from orchestrator_core.deployment.steps import STEPS as DEPLOYMENT_STEPS
from orchestrator_core.exceptions import SagaError
from orchestrator_core.saga import Observer, Sagas, Unwind, combine, step_name

TOP = Path(__file__).parents[2]
STEPS = [step_name(step) for step in DEPLOYMENT_STEPS]


@pytest.fixture
def traces():
    return Traces()


@pytest.fixture
def scene():
    with a_fake_scene() as made:
        yield made


def deployed(scene, orch, script="lives", **how):
    return orch.deploy(orch.create_task("Trace").id, scene.spec(script), **how)


# --- a life --------------------------------------------------------------------------------------


def test_a_deployment_is_a_span_with_a_child_for_each_step_in_order(scene, traces):
    orch = scene.orchestrator(observer=traces.observer())
    agent = deployed(scene, orch)

    [run] = traces.named("run saga")
    steps = traces.below(run)
    assert [f"do {step}" for step in STEPS] == [step.name for step in steps]
    assert {
        "orchestrator_core.saga.id": agent.id,
        "orchestrator_core.label.task_id": agent.task_id,
        "orchestrator_core.label.type": "a",
        "orchestrator_core.label.parent": "orchestrator",
    } == dict(run.attributes)
    assert STEPS == [step.attributes["orchestrator_core.step.name"] for step in steps]
    assert {trace.StatusCode.UNSET} == {span.status.status_code for span in traces.all()}
    assert run.parent is None
    assert "orchestrator_core" == run.instrumentation_scope.name


def test_spans_lie_within_their_sagas_and_one_after_another(scene, traces):
    orch = scene.orchestrator(observer=traces.observer())
    orch.terminate(deployed(scene, orch).id)

    for name in ("run saga", "unwind saga"):
        [saga] = traces.named(name)
        times = [saga.start_time]
        for step in traces.below(saga):
            times += [step.start_time, step.end_time]
        assert sorted(times) == times
        assert times[-1] <= saga.end_time


def test_an_end_has_a_link_to_its_deployment_and_its_reason(scene, traces):
    orch = scene.orchestrator(observer=traces.observer())
    agent = deployed(scene, orch)
    orch.terminate(agent.id)

    [run], [unwinding] = traces.named("run saga"), traces.named("unwind saga")
    assert is_linked(unwinding, run)
    assert run.context.trace_id != unwinding.context.trace_id
    assert [f"undo {step}" for step in reversed(STEPS)] == [
        step.name for step in traces.below(unwinding)
    ]
    assert {"undone", "absent"} == {
        step.attributes["orchestrator_core.step.result"] for step in traces.below(unwinding)
    }
    assert ("terminal", "terminate", agent.id, agent.task_id) == tuple(
        unwinding.attributes[f"orchestrator_core.{name}"]
        for name in ("unwind.reason", "unwind.by", "saga.id", "label.task_id")
    )


def test_a_deployment_and_an_end_are_part_of_their_callers_traces(scene, traces):
    orch = scene.orchestrator(observer=traces.observer())
    with traces.tracer.start_as_current_span("a request") as request:
        agent = deployed(scene, orch)
    with traces.tracer.start_as_current_span("another one") as another:
        orch.terminate(agent.id)

    [run], [unwinding] = traces.named("run saga"), traces.named("unwind saga")
    assert request.get_span_context().span_id == run.parent.span_id
    assert another.get_span_context().span_id == unwinding.parent.span_id
    assert is_linked(unwinding, run)


# --- failures ------------------------------------------------------------------------------------


def test_a_failed_saga_has_its_error_and_the_child_span_of_its_undo(tmp_path, traces):
    shelf = Shelf()
    shelf.fail("do", "b", DeploymentError("no room"))
    sagas = Sagas(tmp_path, steps=[Thing(shelf)], observer=traces.observer())

    with pytest.raises(DeploymentError), sagas.begin("s", shelf.things("a", "b", "c")) as saga:
        saga.run()

    [run], [unwinding] = traces.named("run saga"), traces.named("unwind saga")
    assert ["do a", "do b", "unwind saga"] == [span.name for span in traces.below(run)]
    assert [] == list(unwinding.links)
    assert "rollback" == unwinding.attributes["orchestrator_core.unwind.reason"]
    for span in (run, *traces.named("do b")):
        assert trace.StatusCode.ERROR is span.status.status_code
        assert "orchestrator_core.exceptions.DeploymentError" == span.attributes["error.type"]
        assert "no room" == span.status.description
    assert trace.StatusCode.UNSET is unwinding.status.status_code
    assert run.end_time >= unwinding.end_time


def test_an_agent_that_dies_early_was_deployed_and_its_end_can_be_recorded(scene, traces):
    """The supervisor unwinds the agent without a trace. The error names the agent."""
    observer = traces.observer()
    orch = scene.orchestrator(observer=observer)

    with pytest.raises(DeploymentError) as caught:
        deployed(scene, orch, "dies-early", grace_s=1)
    observer.record_end(orch.history(caught.value.agent_id))

    [run], [unwinding] = traces.named("run saga"), traces.named("unwind saga")
    assert is_linked(unwinding, run)
    assert "rollback" == unwinding.attributes["orchestrator_core.unwind.reason"]


def test_each_failed_attempt_of_an_undo_is_a_span_and_a_stuck_saga_is_an_error(tmp_path, traces):
    shelf = Shelf()
    shelf.fail("undo", "a", OSError("once"), OSError("twice"))
    sagas = Sagas(tmp_path, steps=[Thing(shelf)], observer=traces.observer())
    with sagas.begin("s", shelf.things("a", "b")) as saga:
        saga.run()
        saga.commit()
    sagas.unwind("s", Unwind.terminal("over"))
    sagas.unwind("s", Unwind.terminal("over"))

    stuck, closed = traces.named("unwind saga")
    tries = traces.named("undo a")
    assert ["OSError", "OSError", None] == [each.attributes.get("error.type") for each in tries]
    assert ["once", "twice", None] == [each.status.description for each in tries]
    assert (trace.StatusCode.ERROR, "stuck") == (
        stuck.status.status_code,
        stuck.attributes["error.type"],
    )
    assert "not undone: a" == stuck.status.description
    assert trace.StatusCode.UNSET is closed.status.status_code
    assert {run.context.span_id for run in traces.named("run saga")} == {
        link.context.span_id for span in (stuck, closed) for link in span.links
    }


def test_an_abandoned_saga_without_a_commit_is_an_error(tmp_path, traces):
    shelf = Shelf()
    sagas = Sagas(tmp_path, steps=[Thing(shelf)], observer=traces.observer())
    with sagas.begin("s", shelf.things("a")) as saga:
        saga.run()

    [run] = traces.named("run saga")
    assert ("rollback", trace.StatusCode.ERROR) == (
        run.attributes["error.type"],
        run.status.status_code,
    )


def test_an_observer_drops_the_state_of_ended_sagas(scene, traces):
    """An observer lives as long as its server, so its memory must not grow."""
    observer = traces.observer()
    orch = scene.orchestrator(observer=observer)
    for _ in range(3):
        orch.terminate(deployed(scene, orch).id)
    with pytest.raises(DeploymentError):
        deployed(scene, orch, "refuses")

    assert ({}, {}, {}) == (observer._runs, observer._unwindings, observer._resumed)


def test_an_adopted_saga_is_committed_from_the_start(tmp_path, traces):
    shelf = Shelf()
    sagas = Sagas(tmp_path, steps=[Thing(shelf)], observer=traces.observer())
    with sagas.begin("planned", shelf.things("a")) as planned:
        receipts = {frame.name: frame.load() for frame in planned.history.stack}
    traces.memory.clear()
    with sagas.create_committed("s", receipts):
        assert ["run saga"] == [span.name for span in traces.all()]


# --- the persisted state -------------------------------------------------------------------------


def journal_of(scene, agent):
    [path] = scene.root.glob(f"sagas/**/{agent.id}.jsonl")
    return path.read_text()


def test_the_journal_stores_the_traceparent_and_nothing_else_of_the_context(scene, traces):
    orch = scene.orchestrator(observer=traces.observer())
    token = context.attach(baggage.set_baggage("user", "somebody@example.com"))
    agent = deployed(scene, orch)
    context.detach(token)

    [run] = traces.named("run saga")
    carried = orch.history(agent.id).observer_state
    assert ["traceparent"] == list(carried)
    assert (
        f"00-{run.context.trace_id:032x}-{run.context.span_id:016x}-0"
        == carried["traceparent"][:-1]
    )
    assert "example.com" not in journal_of(scene, agent)


def test_only_named_labels_become_attributes(tmp_path, traces):
    shelf = Shelf()
    sagas = Sagas(tmp_path, steps=[Thing(shelf)], observer=traces.observer(labels=["kind"]))
    labels = {"kind": "build", "task_id": "private", "token": "secret"}
    with sagas.begin("s", shelf.things("a"), labels=labels) as saga:
        saga.run()
        saga.commit()
    sagas.unwind("s", Unwind.terminal("over"))

    expected = {"orchestrator_core.saga.id": "s", "orchestrator_core.label.kind": "build"}
    [run], [unwinding] = traces.named("run saga"), traces.named("unwind saga")
    assert expected == dict(run.attributes)
    assert expected | {"orchestrator_core.unwind.reason": "terminal"} == dict(unwinding.attributes)


@pytest.mark.parametrize("traceparent", ["", "00-zz-01", 7, None, "00-" + "0" * 32 + "-x-01"])
def test_an_invalid_traceparent_makes_no_link(traceparent, tmp_path, traces):
    class Forges(Observer):
        def state_to_persist(self, _saga_id):
            return {"traceparent": traceparent}

    shelf = Shelf()
    sagas = Sagas(tmp_path, steps=[Thing(shelf)], observer=combine(traces.observer(), Forges()))
    with sagas.begin("s", shelf.things("a")) as saga:
        saga.run()
        saga.commit()
    sagas.unwind("s", Unwind.terminal("over"))

    [unwinding] = traces.named("unwind saga")
    assert [] == list(unwinding.links)


# --- applications that do not trace --------------------------------------------------------------

UNTRACED = f"""
import json, sys
sys.path.insert(0, {str(TOP)!r})
from opentelemetry import trace
from orchestrator_core import AgentSpec, Orchestrator
from orchestrator_core.otel import TracingObserver
from orchestrator_core.testing import FakeTerminal

before = type(trace.get_tracer_provider()).__name__
orch = Orchestrator("ws", terminal=FakeTerminal(), observer=TracingObserver())
task = orch.create_task("Trace")
agent = orch.deploy(task.id, AgentSpec(type="a", prompt="go", command=["true"]))
carried = orch.history(agent.id).observer_state
orch.terminate(agent.id)
after = type(trace.get_tracer_provider()).__name__
print(json.dumps([carried, before == after, "opentelemetry.sdk" in sys.modules]))
"""


def test_an_observer_without_a_provider_does_nothing_and_configures_none(short_tmp):
    """The journal has no extra line, and the SDK need not be installed."""
    ran = subprocess.run(
        [sys.executable, "-c", UNTRACED], cwd=short_tmp, capture_output=True, text=True, check=False
    )
    assert ("", [{}, True, False]) == (ran.stderr, json.loads(ran.stdout))


def test_without_the_api_the_error_names_the_extra():
    code = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "from orchestrator_core import OrchestratorError\n"
        "try: import orchestrator_core.otel\n"
        "except OrchestratorError as error: print(error.code, error.hint)"
    )
    output = subprocess.check_output(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(TOP)}, text=True
    )
    assert "otel-missing pip install 'orchestrator-core[otel]'\n" == output


# --- ends in other processes ---------------------------------------------------------------------


def ended_elsewhere(scene, traces, script="lives"):
    """Return an agent whose deployment was traced and whose end was not."""
    observer = traces.observer()
    agent = deployed(scene, scene.orchestrator(observer=observer), script)
    other = scene.orchestrator()
    other.terminate(agent.id)
    return observer, other.history(agent.id)


def test_a_recorded_end_elsewhere_has_the_spans_of_an_observed_end(scene, traces):
    observer, history = ended_elsewhere(scene, traces)
    assert [] == traces.named("unwind saga")

    assert observer.record_end(history)

    [run], [end] = traces.named("run saga"), traces.named("unwind saga")
    steps = traces.below(end)
    assert is_linked(end, run)
    assert [f"undo {step}" for step in reversed(STEPS)] == [step.name for step in steps]
    assert "terminate" == end.attributes["orchestrator_core.unwind.by"]
    lasted_ms = (end.end_time - end.start_time) / 1e6
    assert history.report["duration_ms"] == pytest.approx(lasted_ms, abs=0.01)
    assert end.start_time >= run.end_time - 1_000_000  # A journal's times are of milliseconds.
    assert steps[-1].end_time <= end.end_time


def test_an_end_that_was_observed_or_recorded_is_not_recorded_again(scene, traces):
    observer, history = ended_elsewhere(scene, traces)
    watched = traces.observer()
    agent = deployed(scene, scene.orchestrator(observer=watched))
    orch = scene.orchestrator(observer=watched)
    orch.terminate(agent.id)
    before = len(traces.all())

    assert [True, False, False] == [
        observer.record_end(history),
        observer.record_end(history),
        watched.record_end(orch.history(agent.id)),
    ]
    assert before + 1 + len(STEPS) == len(traces.all())


def test_the_old_name_of_record_end_warns(scene, traces):
    observer, history = ended_elsewhere(scene, traces)
    with pytest.warns(DeprecationWarning, match="record_end"):
        assert observer.tell_end(history)


def test_the_end_of_an_active_agent_cannot_be_recorded(scene, traces):
    observer = traces.observer()
    orch = scene.orchestrator(observer=observer)
    agent = deployed(scene, orch)

    with pytest.raises(SagaError, match="has not ended"):
        observer.record_end(orch.history(agent.id))


def test_an_observer_does_not_replace_the_log(scene, traces, caplog):
    """Both get every event."""
    caplog.set_level("INFO", "orchestrator_core")
    orch = scene.orchestrator(observer=traces.observer())
    spec = AgentSpec(type="a", prompt="go", command=[str(scene.bin / "lives")])
    orch.deploy(orch.create_task("Trace").id, spec)

    assert {"saga.begun", "saga.committed"} <= {record.getMessage() for record in caplog.records}
