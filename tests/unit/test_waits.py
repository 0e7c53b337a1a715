"""Every wait ends at its deadline, however far away that is, and whatever the other side does."""

from __future__ import annotations

import math
import os
import subprocess
import threading
import time
from types import SimpleNamespace

import pytest

from orchestrator_core.exceptions import InvalidInput
from orchestrator_core.model.spec import AgentSpec
from orchestrator_core.supervisor import main_loop
from orchestrator_core.system.event_reader import SupervisorEvents, wait_readable
from orchestrator_core.system.processes import LocalProcesses
from orchestrator_core.system.seconds import check_seconds

LONG_S = 20
DAY_S = 86400.0


@pytest.fixture
def stage(tmp_path):
    """An event pipe and its reader, and a living process in the part of the supervisor."""
    os.mkfifo(tmp_path / "events", 0o600)
    (tmp_path / "log").touch()
    child = subprocess.Popen(["sleep", "1000"])
    processes = LocalProcesses()
    identity = processes.identify(child.pid)
    with SupervisorEvents(str(tmp_path / "events"), str(tmp_path / "log")) as events:

        def wait_for(name, *, timeout_s, supervisor=identity):
            """Return the result in a thread: a wait that never ends fails its test only."""
            result = []
            thread = threading.Thread(
                target=lambda: result.append(
                    events.wait_for(
                        {name}, processes=processes, supervisor=supervisor, timeout_s=timeout_s
                    )
                ),
                daemon=True,
            )
            thread.start()
            thread.join(LONG_S)
            assert not thread.is_alive(), "the wait does not end"
            return result[0]

        yield SimpleNamespace(
            child=child,
            events=events,
            wait_for=wait_for,
            writer=lambda: os.open(tmp_path / "events", os.O_WRONLY | os.O_NONBLOCK),
        )
        child.kill()
        child.wait()


def test_a_supervisor_that_dies_before_its_first_event_is_seen(stage):
    os.close(stage.writer())
    stage.child.kill()

    assert "supervisor-exited" == stage.wait_for("started", timeout_s=LONG_S)


def test_a_pipe_that_was_closed_silently_ends_at_the_deadline_without_computing(stage):
    """The supervisor lives on, but will never write."""
    os.close(stage.writer())
    used_before = time.process_time()

    assert stage.wait_for("started", timeout_s=0.5) is None
    assert time.process_time() - used_before < 0.25


def test_a_supervisor_that_never_lived_is_not_awaited(stage):
    assert "supervisor-exited" == stage.wait_for("started", timeout_s=LONG_S, supervisor=None)


def test_the_last_event_of_a_dead_supervisor_counts(stage):
    writer = stage.writer()
    os.write(writer, b"star")
    stage.events.poll()
    os.write(writer, b"ted 12\n")
    os.close(writer)
    stage.child.kill()
    stage.child.wait()

    assert "started" == stage.wait_for("started", timeout_s=LONG_S)


def test_events_without_end_do_not_keep_a_wait_from_its_deadline(stage):
    writer = stage.writer()
    os.set_blocking(writer, True)

    def flood():
        try:
            while True:
                os.write(writer, b"noise " * 1000)
        except OSError:
            os.close(writer)

    threading.Thread(target=flood, daemon=True).start()

    assert stage.wait_for("started", timeout_s=0.3) is None


@pytest.mark.parametrize("days", [25, 1e6, 1e300, math.inf])
def test_a_deadline_beyond_the_limit_of_poll_is_a_deadline(days):
    reader, writer = os.pipe()
    os.write(writer, b".")

    assert [reader] == wait_readable([reader], time.monotonic() + days * DAY_S)

    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("days", [25, 1e6, 1e300, math.inf])
def test_the_supervisor_waits_for_a_far_deadline_in_steps_that_poll_takes(days):
    loop = object.__new__(main_loop.MainLoop)
    loop._enter(main_loop.RUNNING, days * DAY_S)

    assert 0 < loop._left_ms() < 2**31


# --- the times that callers give -----------------------------------------------------------------


@pytest.mark.parametrize("value", [0, 5, 0.5, 1e300, pytest.param(10**400, id="huge"), math.inf])
def test_any_time_is_accepted(value):
    assert min(value, 1e305) == min(check_seconds("timeout_s", value), 1e305)


@pytest.mark.parametrize("value", [-1, math.nan, -math.inf, "5", None, True, [5], b"5"])
def test_what_is_no_time_is_refused_by_its_name(value):
    with pytest.raises(InvalidInput, match="timeout_s must be a number of seconds"):
        check_seconds("timeout_s", value)


@pytest.mark.parametrize("name", ["deadline_s", "silent_after_s"])
def test_a_time_limit_that_never_comes_is_none(name):
    def limit(value):
        spec = AgentSpec(type="a", prompt="p", command=["true"], **{name: value})
        return getattr(spec, name)

    assert (None, None, 1e300, 5.0) == tuple(map(limit, (None, math.inf, 1e300, 5)))
    for wrong in (0, -1, math.nan, "5"):
        with pytest.raises(InvalidInput, match=name):
            limit(wrong)
