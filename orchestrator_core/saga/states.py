"""
The life of a saga, as a table.

::

    RUNNING --commit--> COMMITTED --unwind--> UNWINDING --close--> CLOSED
       |                                      ^  |    ^
       +---------------unwind-----------------+  |    | retry
                                                 +-> STUCK

Whatever asks whether a change of state is allowed reads :data:`TRANSITIONS`,
and the picture in the documentation is drawn from it.
"""

from __future__ import annotations

import enum


class State(enum.Enum):
    """Where a saga is in its life."""

    RUNNING = "running"  #: Its steps are being done.
    COMMITTED = "committed"  #: All are done; the undo stack is kept.
    UNWINDING = "unwinding"  #: They are being undone, in reverse order.
    STUCK = "stuck"  #: Some could not be undone; the rest were. To be retried.
    CLOSED = "closed"  #: Nothing is held any more. Final.


TRANSITIONS: dict[State, frozenset[State]] = {
    State.RUNNING: frozenset({State.COMMITTED, State.UNWINDING}),
    State.COMMITTED: frozenset({State.UNWINDING}),
    State.UNWINDING: frozenset({State.STUCK, State.CLOSED}),
    State.STUCK: frozenset({State.UNWINDING}),
    State.CLOSED: frozenset(),
}
"""What may follow each state."""


def allowed(now: State, then: State) -> bool:
    """Tell whether a saga that is *now* may become *then*."""
    return then in TRANSITIONS[now]
