"""Log events: stable names, passed on to the application's logging, which stays unchanged."""

from __future__ import annotations

import ast
import functools
import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import structlog

from orchestrator_core.system import log

TOP = Path(__file__).parents[2]
PACKAGE = TOP / "orchestrator_core"

#: Alerts and dashboards depend on these: no event changes its name, level or values.
EVENTS = {
    "alert.failed": ("error", "subject", "error"),
    "journal.damaged": ("error", "saga_id", "kept"),
    "mcp.tool_crashed": ("error", "tool", "error"),
    "mcp.undo_failed": ("error", "error", "hint"),
    "observer.failed": ("error", "hook", "error"),
    "registry.damaged": ("error", "registry", "kept", "why"),
    "registry.restored": ("error", "registry"),
    "saga.begun": ("info", "saga_id", "labels"),
    "saga.closed": ("info", "saga_id", "reason", "duration_ms"),
    "saga.committed": ("info", "saga_id"),
    "saga.end_requested": ("info", "saga_id", "why"),
    "saga.stuck": ("error", "saga_id", "steps", "retry_at"),
    "saga.unwinding": ("info", "saga_id", "reason", "why"),
    "stats.not_counted": ("error", "root", "error"),
    "stats.not_recorded": ("warning", "what", "error"),
    "step.abandoned": ("warning", "saga_id", "step", "by", "reason"),
    "step.done": ("info", "saga_id", "step", "duration_ms"),
    "step.failed": ("warning", "saga_id", "step", "error"),
    "step.undo_failed": ("warning", "saga_id", "step", "error"),
    "step.undone": ("info", "saga_id", "step", "result", "duration_ms"),
    "sweeper.failed": ("warning", "what", "error"),
    "sweeper.hung": ("error", "what", "for_s"),
    "sweeper.no_file_events": ("warning", "error"),
    "sweeper.reacted": ("info", "saga_id", "unwound", "duration_ms"),
    "sweeper.started": ("info", "watched"),
    "sweeper.stopped": ("info", "left"),
}

#: A deployment, its end, and a damaged registry, which is logged as an error.
LIFE = """
from orchestrator_core import AgentSpec, Orchestrator
from orchestrator_core.testing import FakeTerminal

orch = Orchestrator("ws", terminal=FakeTerminal())
task = orch.create_task("Log")
agent = orch.deploy(task.id, AgentSpec(type="a", prompt="go", command=["true"]))
orch.terminate(agent.id)
registry = orch.root / "registry" / "GLOBAL_REGISTRY.json"
registry.write_text("[")
orch.create_task("Mend")
"""
LOGGED = [
    "saga.begun",
    "step.done",
    "saga.committed",
    "saga.unwinding",
    "step.undone",
    "saga.closed",
]


def run(place, program):
    """Run a program that imports the library; return its standard output and error."""
    ran = subprocess.run(
        [sys.executable, "-c", program],
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(TOP)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert 0 == ran.returncode, ran.stderr
    return ran.stdout, ran.stderr


def in_order(names):
    """Return each name once, in the order of its first occurrence."""
    return list(dict.fromkeys(names))


# --- names ----------------------------------------------------------------------------------------


def rows_of_the_reference():
    section = (TOP / "docs" / "reference.md").read_text().partition("<!-- drawn: events -->")[2]
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in section.partition("<!-- end -->")[0].splitlines()
        if line.startswith("| `")
    ]
    return {
        event.strip("`"): (level, *re.findall(r"`(\w+)`", values))
        for event, level, values, _ in rows
    }


def test_the_reference_lists_every_event_unchanged():
    assert EVENTS == rows_of_the_reference()


@functools.cache
def calls():
    return list(calls_in_the_library())


def calls_in_the_library():
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = getattr(node.func, "attr", None) or getattr(node.func, "id", "")
                yield str(path.relative_to(PACKAGE)), name, node


def test_every_event_name_is_a_literal_in_the_code():
    """The reference is drawn from the literals, so it lists all events."""
    emitted = [node for _, name, node in calls() if name == "emit"]
    named = [n.args[1].value for n in emitted if isinstance(n.args[1], ast.Constant)]

    assert len(emitted) == len(named) == len(EVENTS)
    assert sorted(EVENTS) == sorted(named)
    assert all(re.fullmatch(r"[a-z]+\.[a-z_]+", name) for name in named)


def test_only_the_command_line_configures_logging():
    names = {"getLogger", "basicConfig", "dictConfig", "configure", "captureWarnings", "addHandler"}
    found = {(path, name) for path, name, _ in calls() if name in names}
    allowed = {("system/log.py", "getLogger"), ("system/log.py", "addHandler")}

    assert allowed == {(path, name) for path, name in found if not path.startswith("cli/")}


def test_no_value_has_the_name_of_a_record_attribute():
    """The standard library refuses such a value, and the event would be lost."""
    usual = {*vars(logging.makeLogRecord({})), "message", "asctime", "event", "logger", "level"}

    assert set() == usual & {value for _, *values in EVENTS.values() for value in values}


# --- applications -----------------------------------------------------------------------------


def test_an_application_without_logging_sees_nothing(short_tmp):
    """Nothing is printed to standard output, as structlog would, or to standard error."""
    assert ("", "") == run(short_tmp, LIFE)


def test_the_library_leaves_the_applications_logging_unchanged(short_tmp):
    out, _ = run(
        short_tmp,
        f"""
import logging, structlog, sys, warnings

def state():
    root = logging.getLogger()
    package = logging.getLogger("orchestrator_core")
    return (
        root.level, root.handlers, root.filters, root.disabled,
        package.level, package.propagate, package.disabled, package.filters,
        [type(handler).__name__ for handler in package.handlers if
         type(handler) is not logging.NullHandler],
        logging.getLoggerClass(), logging.getLogRecordFactory(), logging.raiseExceptions,
        structlog.is_configured(), structlog.get_config(),
        sys.stdout, sys.stderr, sys.excepthook, warnings.showwarning,
    )

before = repr(state())
{LIFE}
assert before == repr(state()), (before, state())
print("as it was")
""",
    )
    assert "as it was\n" == out


def test_structlog_with_a_json_renderer_prints_json(short_tmp):
    """The application's own processors get each event once."""
    program = f"""
import sys, structlog
structlog.configure(
    processors=[structlog.processors.add_log_level, structlog.processors.JSONRenderer()],
    logger_factory=structlog.PrintLoggerFactory(sys.stderr),
)
{LIFE}"""
    out, err = run(short_tmp, program)

    logged = [json.loads(line) for line in err.splitlines()]
    assert "" == out
    assert [*LOGGED, "registry.damaged"] == in_order(each["event"] for each in logged)
    assert {"orchestrator_core"} == {each["logger"] for each in logged}
    assert 1 == sum(each["event"] == "saga.closed" for each in logged)
    [closed] = [each for each in logged if each["event"] == "saga.closed"]
    assert ("info", "terminal") == (closed["level"], closed["reason"])
    assert "error" == logged[-1]["level"]


def test_structlog_over_standard_logging_gets_each_event_once(short_tmp):
    program = f"""
import logging, structlog, sys
handler = logging.StreamHandler(sys.stderr)
handler.setFormatter(structlog.stdlib.ProcessorFormatter(
    foreign_pre_chain=[structlog.stdlib.add_log_level],
    processors=[
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        structlog.processors.JSONRenderer(),
    ],
))
logging.getLogger().addHandler(handler)
logging.getLogger().setLevel("INFO")
structlog.configure(
    processors=[
        structlog.stdlib.filter_by_level,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
    ],
    logger_factory=structlog.stdlib.LoggerFactory(),
    wrapper_class=structlog.stdlib.BoundLogger,
)
{LIFE}
logging.getLogger("orchestrator_core").setLevel("ERROR")
orch.deploy(task.id, AgentSpec(type="a", prompt="go", command=["true"]))
"""
    _, err = run(short_tmp, program)

    logged = [json.loads(line) for line in err.splitlines()]
    assert [*LOGGED, "registry.damaged"] == in_order(each["event"] for each in logged)
    assert 1 == sum(each["event"] == "saga.begun" for each in logged)
    assert {"orchestrator_core"} == {each["logger"] for each in logged}


def test_a_standard_record_has_the_values_as_attributes(caplog):
    caplog.set_level(logging.INFO, "orchestrator_core")
    log.emit(logging.INFO, "step.done", saga_id="a-1", step="tee_log", duration_ms=1.5)

    [record] = caplog.records
    assert ("step.done", "orchestrator_core") == (record.getMessage(), record.name)
    assert ("a-1", "tee_log", 1.5) == (record.saga_id, record.step, record.duration_ms)


@pytest.fixture
def configured():
    """Configure structlog for one test."""
    yield structlog.configure
    structlog.reset_defaults()


def test_a_failing_processor_loses_no_event(configured, caplog):
    """The event goes to standard logging instead, and the caller gets no error."""

    def broken(*_given):
        raise ValueError("of the application's")

    configured(processors=[broken])
    log.emit(logging.ERROR, "alert.failed", subject="a-1", error="x")

    assert [("alert.failed", "a-1")] == [(r.getMessage(), r.subject) for r in caplog.records]
