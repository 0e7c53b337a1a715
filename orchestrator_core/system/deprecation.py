"""
Old public names, kept for one release: each resolves to its new name and warns.

A module with renamed public names assigns the result of :func:`renamed` to its
``__getattr__`` (PEP 562), so an old name costs nothing until somebody uses it.
"""

from __future__ import annotations

TYPE_CHECKING = False  # Importing typing costs a millisecond that every agent's report pays.
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, TypeVar

    F = TypeVar("F", bound=Callable[..., Any])
    T = TypeVar("T")


def renamed(module: str, names: Mapping[str, str]) -> Callable[[str], object]:
    """
    Return a module's ``__getattr__`` that resolves renamed attributes.

    *names* maps each old name to the new one in the same *module*. A lookup of an old name
    returns the new attribute and emits a ``DeprecationWarning`` at the caller's line.

    Raises:
        AttributeError: By the returned function, for a name that is not in *names*.
    """

    def lookup(name: str) -> object:
        new_name = names.get(name)
        if new_name is None:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        import sys  # noqa: PLC0415 - for the first use of an old name only

        warn_renamed(f"{module}.{name}", f"{module}.{new_name}", stacklevel=2)
        return getattr(sys.modules[module], new_name)

    return lookup


def warn_renamed(old: str, new: str, *, stacklevel: int = 2) -> None:
    """Warn that *old* is now called *new*; 1 is the caller, 2 the caller of that."""
    import warnings  # noqa: PLC0415 - for the first use of an old name only

    warnings.warn(
        f"{old} is now {new}; the old name goes in the next release",
        DeprecationWarning,
        stacklevel=stacklevel + 1,
    )


def renamed_attributes(**names: str) -> Callable[[type[T]], type[T]]:
    """
    Return a class decorator by which old attribute names go on working.

    *names* maps each old name to the new one. The class gets a ``__getattr__`` that the type
    checker does not see, so misspelt names are still found. An unknown name is an
    AttributeError, as usual.
    """

    def decorate(cls: type[T]) -> type[T]:
        owner = cls.__name__

        def lookup(self: object, name: str) -> object:
            new_name = names.get(name)
            if new_name is None:
                raise AttributeError(f"{owner!r} object has no attribute {name!r}")
            warn_renamed(f"{owner}.{name}", f"{owner}.{new_name}", stacklevel=2)
            return getattr(self, new_name)

        cls.__getattr__ = lookup  # type: ignore[attr-defined]
        return cls

    return decorate


def renamed_keyword(old: str, new: str) -> Callable[[F], F]:
    """Return a decorator that accepts keyword argument *old* as *new*, with a warning."""

    def decorate(function: F) -> F:
        import functools  # noqa: PLC0415 - for classes with renamed parameters only

        @functools.wraps(function)
        def accept(*args: object, **kwargs: object) -> object:
            if old in kwargs:
                warn_renamed(f"{function.__qualname__}({old}=)", f"{new}=", stacklevel=2)
                kwargs[new] = kwargs.pop(old)
            return function(*args, **kwargs)

        return accept  # type: ignore[return-value]  # it has the signature of *function*

    return decorate
