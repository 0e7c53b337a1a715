"""
Log events, passed on to whatever logging the application has configured.

An application that has configured structlog gets the events through its own processors. Any
other application gets records of the standard logger ``orchestrator_core``, with the values
of an event as attributes (``record.saga_id``). That logger has a NullHandler: it is silent
until the application adds a handler. structlog's default, printing to standard output, is
never used.
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
    Log an event: a stable name, with its values as keys.

    A call costs little if no handler listens. Errors of the application's processors are
    suppressed: a failing log changes nothing else.
    """
    structlog = _configured_structlog()
    if structlog is not None:
        with contextlib.suppress(Exception):
            log_method = getattr(structlog.get_logger(NAME), logging.getLevelName(level).lower())
            log_method(event, logger=NAME, **values)
            return
    if LOGGER.isEnabledFor(level):
        _stdlib_logger().log(level, event, **values)


def _configured_structlog() -> ModuleType | None:
    """Return structlog if the application has configured, and therefore imported, it."""
    structlog = sys.modules.get("structlog")
    is_configured = getattr(structlog, "is_configured", None)  # Absent during its import.
    return structlog if is_configured is not None and is_configured() else None


@functools.cache
def _stdlib_logger() -> Any:  # noqa: ANN401 - structlog's loggers are duck-typed
    import structlog  # noqa: PLC0415 - slow to import, and only needed with a handler

    return structlog.wrap_logger(
        LOGGER,
        wrapper_class=structlog.stdlib.BoundLogger,
        processors=[structlog.stdlib.filter_by_level, structlog.stdlib.render_to_log_kwargs],
        cache_logger_on_first_use=True,
    )
