"""
Old public names, kept for one release: each resolves to its new name and warns.

A module with renamed public names assigns the result of :func:`renamed` to its
``__getattr__`` (PEP 562), so an old name costs nothing until somebody uses it.
"""

from __future__ import annotations

TYPE_CHECKING = False  # Importing typing costs a millisecond that every agent's report pays.
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


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
