"""Values that have a form for JSON."""

from __future__ import annotations

from typing import Any

import msgspec


class JsonValues:
    """The base of an attrs class whose ``to_dict`` returns all fields."""

    __slots__ = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-safe values."""
        plain: dict[str, Any] = msgspec.to_builtins(self, str_keys=True)
        return plain
