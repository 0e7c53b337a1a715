"""Deadlines go by the monotonic clock."""

from __future__ import annotations

import time

import pytest

from orchestrator_core.model.spec import deadline_labels, is_past_deadline, monotonic_deadline

YEARS_S = 10 * 366 * 86400


def test_an_agent_without_a_deadline_never_expires():
    labels = deadline_labels(None)

    assert (None, False) == (monotonic_deadline(labels), is_past_deadline(labels))


@pytest.mark.parametrize("by_s", [0, YEARS_S, -YEARS_S])
def test_a_change_of_the_time_of_day_moves_no_deadline(monkeypatch, by_s):
    later, now = deadline_labels(3600.0), deadline_labels(1e-9)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + by_s)

    assert (False, True) == (is_past_deadline(later), is_past_deadline(now))


def test_the_label_for_people_is_the_time_of_day():
    assert abs(deadline_labels(60.0)["deadline_at"] - time.time() - 60.0) < 1.0


@pytest.mark.parametrize("journal", ["of another boot", "without a clock"])
def test_a_deadline_of_another_clock_falls_back_to_the_time_of_day(journal):
    """The monotonic reading of another boot, or a label without one, proves nothing."""
    past, future = ({"deadline_at": time.time() + by} for by in (-1.0, 3600.0))
    if journal == "of another boot":
        past |= {"boot_id": "another", "deadline_monotonic": 1e12}
        future |= {"boot_id": "another", "deadline_monotonic": 0.0}

    assert (True, False) == (is_past_deadline(past), is_past_deadline(future))
