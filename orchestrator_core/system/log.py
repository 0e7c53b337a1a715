"""
Events, into whatever logging the application has; none of it is configured here.

An application that has configured structlog gets them through its own processors, as
if it had logged them itself. To any other they are records of the standard logger
``orchestrator_core``, with an event's values as attributes (``record.saga_id``), so that
any formatter finds them; that logger has a NullHandler, and so is silent until somebody
listens. structlog's own default, printing to standard output, never applies.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import ModuleType

NAME = "orchestrator_core"  #: Of the standard logger, and the value ``logger`` of each event.
LOGGER = logging.getLogger(NAME)
LOGGER.addHandler(logging.NullHandler())


def emit(level: int, event: str, **values: object) -> None:
    """
    Log an event: a stable name, and its values as keys.

    Costs next to nothing if nobody listens. What the application's processors raise is
    not passed on: telling of something must not change it.
    """
    structlog = _configured_structlog()
    if structlog is not None:
        with contextlib.suppress(Exception):
            say = getattr(structlog.get_logger(NAME), logging.getLevelName(level).lower())
            say(event, logger=NAME, **values)
            return
    if LOGGER.isEnabledFor(level):
        _of_our_own().log(level, event, **values)


def _configured_structlog() -> ModuleType | None:
    """Return structlog if the application has configured it."""
    structlog = sys.modules.get("structlog")  # Who has configured it has imported it.
    is_configured = getattr(structlog, "is_configured", None)  # It may be half imported yet.
    return structlog if is_configured is not None and is_configured() else None


@functools.cache
def _of_our_own() -> Any:  # noqa: ANN401 - structlog's loggers are duck-typed
    import structlog  # noqa: PLC0415 - slow to import, and only for those who listen

    return structlog.wrap_logger(
        LOGGER,
        wrapper_class=structlog.stdlib.BoundLogger,
        processors=[structlog.stdlib.filter_by_level, structlog.stdlib.render_to_log_kwargs],
        cache_logger_on_first_use=True,
    )
