"""
The registry of receipt classes, by type name and version.

The journal holds receipts, never code. Another process, or a newer release, has to find the
class of a receipt. So each class is registered under a type name, which stays for as long as
there are journals, and a version with upgrades from the earlier ones.
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
    Register a class of receipts, frozen by attrs and JSON-safe, under *name* and *version*.

    ``upgrades[n]`` turns the JSON object of version *n* into that of *n* + 1. *name* must
    never change, since journals of past releases contain it; the class may be renamed.

    Raises:
        ValueError: *name* is registered for another class, or an upgrade is missing.
    """
    steps = dict(upgrades or {})
    if set(steps) != set(range(1, version)):
        raise ValueError(
            f"receipt {name!r} version {version} needs an upgrade from each version before it"
        )

    def register(cls: type[T]) -> type[T]:
        is_attrs = "__attrs_attrs__" in vars(cls)  # not inherited
        frozen: Any = cls if is_attrs else attrs.frozen(cls)
        known = _by_name.get(name)
        # A module that is loaded again registers the same class again.
        if known is not None and _qualified_name(known.cls) != _qualified_name(frozen):
            raise ValueError(f"receipt {name!r} is registered for {known.cls.__qualname__}")
        _by_name[name] = _by_class[frozen] = _ReceiptType(name, version, frozen, steps)
        return cast("type[T]", frozen)

    return register


def _qualified_name(cls: type[Any]) -> tuple[str, str]:
    return cls.__module__, cls.__qualname__


def name_of(cls: type[Any]) -> str:
    """Return the registered type name of a receipt class."""
    return _type_of(cls).name


def _type_of(cls: type[Any]) -> _ReceiptType:
    try:
        return _by_class[cls]
    except KeyError:
        raise TypeError(
            f"{cls.__qualname__} is not registered: decorate it with @receipt"
        ) from None


def serialize(value: Any) -> dict[str, Any]:  # noqa: ANN401 - any registered class
    """
    Return a receipt in its journal form: ``{"type", "version", "receipt"}``, of JSON values.

    Raises:
        TypeError: The class is not registered.
    """
    receipt_type = _type_of(type(value))
    body = msgspec.to_builtins(value)
    return {"type": receipt_type.name, "version": receipt_type.version, "receipt": body}


def deserialize(name: str, version: int, value: dict[str, Any]) -> Any:  # noqa: ANN401 - see serialize
    """
    Return the receipt object, upgraded to the registered version.

    Raises:
        UnknownStep: The type or the version is not registered, or the fields do not fit.
    """
    receipt_type = _by_name.get(name)
    if receipt_type is None or version > receipt_type.version:
        raise UnknownStep(f"receipt type {name!r} version {version} is not registered")
    try:
        for old in range(version, receipt_type.version):
            value = receipt_type.upgrades[old](value)
        return msgspec.convert(value, receipt_type.cls)
    except (msgspec.ValidationError, KeyError, TypeError) as error:
        raise UnknownStep(f"receipt of {name!r} version {version} does not fit: {error}") from error
