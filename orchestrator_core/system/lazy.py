"""An attribute that is computed at its first use, without a lock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, overload

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class LazyAttribute(Generic[T]):
    """
    An attribute that *compute* returns at its first use; the instance then keeps it.

    Python 3.11's ``functools.cached_property`` holds a lock meanwhile. A process that is
    forked at that instant has a copy of the lock that no thread of it releases, and waits for
    it for ever. Here two threads may both compute, and both get the value of the first to
    finish.
    """

    def __init__(self, compute: Callable[[Any], T]) -> None:
        self._compute = compute
        self.__doc__ = compute.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type) -> T: ...
    def __get__(self, instance: object, owner: type) -> Self | T:
        if instance is None:
            return self
        value: T = instance.__dict__.setdefault(self._name, self._compute(instance))
        return value
