"""The log events of a resident sweeper: one function for each, with its meaning."""

from __future__ import annotations

import logging

from orchestrator_core.system.log import emit


def started(watched: int) -> None:
    """A resident sweeper watches every live agent."""
    emit(logging.INFO, "sweeper.started", watched=watched)


def stopped(left: list[str]) -> None:
    """A resident sweeper has stopped on request; recovery finishes the jobs in *left*."""
    emit(logging.INFO, "sweeper.stopped", left=left)


def has_no_file_events(error: OSError) -> None:
    """The sweeper gets no file events: only the next sweep finds new agents."""
    emit(logging.WARNING, "sweeper.no_file_events", error=str(error))


def reacted(saga_id: str, *, unwound: bool, duration_ms: float) -> None:
    """An event has caused a recovery of that saga, and the recovery is done."""
    emit(logging.INFO, "sweeper.reacted", saga_id=saga_id, unwound=unwound, duration_ms=duration_ms)


def failed(what: str, error: str) -> None:
    """A sweep, a reaction or a callback has failed; the sweeper goes on, and tries again."""
    emit(logging.WARNING, "sweeper.failed", what=what, error=error)


def hung(what: str, for_s: float) -> None:
    """A job runs for longer than `hang_s`: the sweeper is unhealthy until it is restarted."""
    emit(logging.ERROR, "sweeper.hung", what=what, for_s=for_s)
