"""
Text that UTF-8 cannot encode: lone surrogates, which Python uses for the odd bytes of a name.

A terminal in Latin-1, a file name, and half of an emoji in an agent's JSON produce them. JSON
documents on disk are UTF-8, so a surrogate is replaced before it gets there.
"""

from __future__ import annotations

from typing import Any


def replace_surrogates(value: Any) -> Any:  # noqa: ANN401 - a JSON value, returned as it came
    """Return a JSON value with U+FFFD in place of each lone surrogate, in keys as well."""
    if isinstance(value, str):
        return value if value.isascii() else _replaced(value)
    if isinstance(value, dict):
        return {replace_surrogates(key): replace_surrogates(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [replace_surrogates(each) for each in value]
    return value


def _replaced(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        # Two halves of one character become that character.
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
