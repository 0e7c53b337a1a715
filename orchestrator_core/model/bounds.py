"""
The bounds of the texts that a root keeps.

Each update of a registry writes all records of its task again. So one large text would slow
every report of every agent. A message or a reason is shortened, with a mark: the report is
worth more than its end. What only its caller can shorten is refused.
"""

from __future__ import annotations

from typing import Any

import msgspec

from orchestrator_core.exceptions import InvalidInput

MESSAGE_MAX = 10_000  #: Characters of a message, or of a reason. A longer one is shortened.
LABEL_MAX = 200  #: Characters of a finding's type, or of a priority. A longer one is refused.
DESCRIPTION_MAX = 20_000  #: Characters of a task's description. A longer one is refused.
DATA_MAX = 262_144  #: Bytes of JSON: a finding's data, a task's extra fields. More is refused.


def shortened(text: str) -> str:
    """Return *text*, or its beginning with a mark that names its length."""
    if len(text) <= MESSAGE_MAX:
        return text
    mark = f" … [shortened: it had {len(text)} characters]"
    return text[: MESSAGE_MAX - len(mark)] + mark


def check_text(what: str, text: object) -> None:
    """Raise InvalidInput unless *text* is a text."""
    if not isinstance(text, str):
        raise InvalidInput(f"{what} must be text, not {type(text).__name__}")


def check_count(what: str, count: object) -> None:
    """Raise InvalidInput unless *count* is None or a whole number, at least 0."""
    is_whole = isinstance(count, int) and not isinstance(count, bool)
    if count is not None and not (is_whole and count >= 0):  # type: ignore[operator]
        raise InvalidInput(f"{what} must be a whole number, at least 0, not {count!r:.80}")


def check_length(what: str, text: str, longest: int) -> None:
    """
    Check the type of a text, and its length in characters.

    Raises:
        InvalidInput: It is no text, or too long.
    """
    check_text(what, text)
    if len(text) > longest:
        raise InvalidInput(
            f"{what} has {len(text)} characters, and may have {longest}",
            hint="put it into a file, and name the file",
        )


def check_data(what: str, data: Any) -> None:  # noqa: ANN401 - a JSON value
    """
    Check that a value can be written as JSON, and is not too large.

    Raises:
        InvalidInput: It cannot, or it is.
    """
    try:
        size = len(msgspec.json.encode(data))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInput(f"{what} is not JSON: {error}") from error
    if size > DATA_MAX:
        raise InvalidInput(
            f"{what} has {size} bytes as JSON, and may have {DATA_MAX}",
            hint="put it into a file, and name the file",
        )
