"""What a resident sweeper logs: a function for each event, which says what it means."""

from __future__ import annotations

import logging

from orchestrator_core.system.log import emit


def started(watched: int) -> None:
    """A resident sweeper watches every agent that lives."""
    emit(logging.INFO, "sweeper.started", watched=watched)


def stopped(left: list[str]) -> None:
    """It has ended, as it was told; what was *left* undone, recovery finishes."""
    emit(logging.INFO, "sweeper.stopped", left=left)


def has_no_file_events(error: OSError) -> None:
    """It is not told of new journals: new agents are noticed by the next sweep only."""
    emit(logging.WARNING, "sweeper.no_file_events", error=str(error))


def reacted(saga_id: str, *, unwound: bool, duration_ms: float) -> None:
    """Something woke it, and it has seen to that saga."""
    emit(logging.INFO, "sweeper.reacted", saga_id=saga_id, unwound=unwound, duration_ms=duration_ms)


def failed(what: str, error: str) -> None:
    """A sweep, a reaction or a call of ours has failed; it goes on, and tries again."""
    emit(logging.WARNING, "sweeper.failed", what=what, error=error)


def hung(what: str, for_s: float) -> None:
    """Something takes longer than `hang_s`: it is not healthy, and is to be started anew."""
    emit(logging.ERROR, "sweeper.hung", what=what, for_s=for_s)
