"""
Receipts, by type and version.

The journal holds receipts, never code: another process, or a newer release,
must find the class of a receipt it did not write. So each class is registered
under a type name, which lives as long as there are journals, and a version
with upgrades from the ones before it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, cast, dataclass_transform

import attrs
import msgspec

from orchestrator_core.exceptions import UnknownStep

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


@attrs.frozen
class _ReceiptType:
    name: str
    version: int
    cls: type[Any]
    upgrades: dict[int, Callable[[dict[str, Any]], dict[str, Any]]]


_by_name: dict[str, _ReceiptType] = {}
_by_class: dict[type[Any], _ReceiptType] = {}


@dataclass_transform(frozen_default=True, field_specifiers=(attrs.field,))
def receipt(
    name: str,
    *,
    version: int = 1,
    upgrades: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] | None = None,
) -> Callable[[type[T]], type[T]]:
    """
    Make a class a receipt: frozen attrs, JSON-safe, known by *name* and *version*.

    ``upgrades[n]`` turns the JSON object of version *n* into that of *n* + 1.
    The name outlives the class's own: journals of past releases carry it.

    Raises:
        ValueError: Another class has this name, or an upgrade is missing.
    """
    steps = dict(upgrades or {})
    if set(steps) != set(range(1, version)):
        raise ValueError(f"receipt {name!r} version {version} needs upgrades from 1 to its own")

    def register(cls: type[T]) -> type[T]:
        is_attrs = "__attrs_attrs__" in vars(cls)  # of its own, not inherited
        frozen: Any = cls if is_attrs else attrs.frozen(cls)
        known = _by_name.get(name)
        # A module that is loaded again registers the same class again.
        if known is not None and _qualified_name(known.cls) != _qualified_name(frozen):
            raise ValueError(f"receipt {name!r} is {known.cls.__qualname__} already")
        _by_name[name] = _by_class[frozen] = _ReceiptType(name, version, frozen, steps)
        return cast("type[T]", frozen)

    return register


def _qualified_name(cls: type[Any]) -> tuple[str, str]:
    return cls.__module__, cls.__qualname__


def name_of(cls: type[Any]) -> str:
    """Return the registered type name of a receipt class."""
    return _kind_of(cls).name


def _kind_of(cls: type[Any]) -> _ReceiptType:
    try:
        return _by_class[cls]
    except KeyError:
        raise TypeError(
            f"{cls.__qualname__} is not registered: decorate it with @receipt"
        ) from None


def serialize(value: Any) -> dict[str, Any]:  # noqa: ANN401 - any registered class
    """
    Return a receipt as the journal keeps it: ``{"type", "version", "receipt"}``, of JSON values.

    Raises:
        TypeError: It is of no registered class.
    """
    kind = _kind_of(type(value))
    return {"type": kind.name, "version": kind.version, "receipt": msgspec.to_builtins(value)}


def deserialize(name: str, version: int, value: dict[str, Any]) -> Any:  # noqa: ANN401 - see serialize
    """
    Build the receipt again, upgraded to the version known here.

    Raises:
        UnknownStep: The type, the version or the shape is not known here.
    """
    kind = _by_name.get(name)
    if kind is None or version > kind.version:
        raise UnknownStep(f"receipt type {name!r} version {version} is not known here")
    try:
        for old in range(version, kind.version):
            value = kind.upgrades[old](value)
        return msgspec.convert(value, kind.cls)
    except (msgspec.ValidationError, KeyError, TypeError) as error:
        raise UnknownStep(f"receipt of {name!r} version {version} does not fit: {error}") from error
