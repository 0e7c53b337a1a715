"""Text that UTF-8 can hold: JSON strings, file names and Python strings may be none."""

from __future__ import annotations

from typing import Any


def well_formed(value: Any) -> Any:  # noqa: ANN401 - JSON
    """
    Return JSON-safe values in which each text is Unicode.

    The two halves of a surrogate pair become their character. A half without the other
    becomes U+FFFD, which readers show as a replaced character.
    """
    if isinstance(value, str):
        return value if _is_unicode(value) else _replaced(value)
    if isinstance(value, dict):
        return {well_formed(name): well_formed(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [well_formed(each) for each in value]
    return value


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _replaced(text: str) -> str:
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
