"""
One time-out per pass: a circuit breaker for servers that do not answer.

Within a :func:`shared_timeout`, the first call that waits in vain for a server is the only one.
Each later call of that server fails at once, with the same message: its answer is unknown.
The next pass waits again. A pass belongs to its thread; a worker thread takes part in it
through a copy of the context (:func:`contextvars.copy_context`).
"""

from __future__ import annotations

import contextlib
from contextvars import ContextVar
from typing import TYPE_CHECKING

from orchestrator_core.exceptions import TerminalTimeout

if TYPE_CHECKING:
    from collections.abc import Iterator

#: The messages of this pass's time-outs, by server; None outside of a pass.
_timeouts: ContextVar[dict[str, str] | None] = ContextVar("timeouts", default=None)


@contextlib.contextmanager
def shared_timeout() -> Iterator[None]:
    """Let the calls in this block wait for each server once. An inner block is part of it."""
    if _timeouts.get() is not None:
        yield
        return
    token = _timeouts.set({})
    try:
        yield
    finally:
        _timeouts.reset(token)


def check(server: str) -> None:
    """
    Check that a call of *server* may wait.

    Raises:
        TerminalTimeout: An earlier call of this pass has waited in vain.
    """
    message = (_timeouts.get() or {}).get(server)
    if message is not None:
        raise TerminalTimeout(message)


def timeout_of(server: str, message: str) -> TerminalTimeout:
    """Return the error for a call that *server* has not answered, and note it for this pass."""
    noted = _timeouts.get()
    if noted is not None:
        noted[server] = message
    return TerminalTimeout(message)
