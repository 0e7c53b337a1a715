"""
The states of a saga, and the allowed transitions as a table.

::

    RUNNING --commit--> COMMITTED --unwind--> UNWINDING --close--> CLOSED
       |                                      ^  |    ^
       +---------------unwind-----------------+  |    | retry
                                                 +-> STUCK

Every check of a transition reads :data:`TRANSITIONS`, and the documentation's picture is drawn
from it.
"""

from __future__ import annotations

import enum


class State(enum.Enum):
    """The state of a saga."""

    RUNNING = "running"  #: The steps are being done.
    COMMITTED = "committed"  #: All steps are done; the undo stack is kept.
    UNWINDING = "unwinding"  #: The steps are being undone, in reverse order.
    STUCK = "stuck"  #: Some steps could not be undone; the others were. Recovery retries.
    CLOSED = "closed"  #: Nothing is held. Final.


TRANSITIONS: dict[State, frozenset[State]] = {
    State.RUNNING: frozenset({State.COMMITTED, State.UNWINDING}),
    State.COMMITTED: frozenset({State.UNWINDING}),
    State.UNWINDING: frozenset({State.STUCK, State.CLOSED}),
    State.STUCK: frozenset({State.UNWINDING}),
    State.CLOSED: frozenset(),
}
"""The states that may follow each state."""
