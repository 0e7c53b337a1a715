"""Times in seconds, as callers give them: checked before anything is taken."""

from __future__ import annotations

import math
import sys

from orchestrator_core.exceptions import InvalidInput


def check_seconds(name: str, value: object, *, zero: bool = True) -> float:
    """
    Return a time that a caller gave: any finite one, or infinity, which means for ever.

    Raises:
        InvalidInput: It is no number, NaN, or negative; or 0, where *zero* is not allowed.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and (value > 0 or (zero and value == 0)):  # type: ignore[operator]
        return math.inf if value > sys.float_info.max else float(value)  # type: ignore[operator,arg-type]
    least = "at least 0" if zero else "greater than 0"
    raise InvalidInput(
        f"{name} must be a number of seconds, {least}, not {value!r:.80}",
        hint="float('inf') means for ever",
    )
