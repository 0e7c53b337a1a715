"""
The choice of a root's terminal: the class that ``root.json`` names under ``terminal``.

``tmux`` is the default. Any other class is named by its path, ``package.module:Class``, or
by an entry point in the group ``orchestrator_core.terminals``. The class is called with the
root's socket path and ``timeout_s``, and implements
:class:`~orchestrator_core.system.terminal.Terminal`. Its optional attribute ``processes``
replaces this machine's processes. Every process that opens the root imports it, also the
supervisor's unwinder: the class stands in a module that is importable everywhere.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, cast

from orchestrator_core.exceptions import TerminalUnavailable
from orchestrator_core.model.layout import DEFAULT_TERMINAL

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from orchestrator_core.system.terminal import Terminal

GROUP = "orchestrator_core.terminals"  #: The group of entry points.

_BUILTIN = {DEFAULT_TERMINAL: "orchestrator_core.system.tmux:TmuxTerminal"}


def load_terminal(name: str, socket: Path, *, timeout_s: float) -> Terminal:
    """
    Return a new instance of the terminal class called *name*.

    Raises:
        TerminalUnavailable: No such class is known, or it cannot be imported or called.
    """
    try:
        return _find_class(name)(socket, timeout_s=timeout_s)
    except TerminalUnavailable:
        raise
    except Exception as error:
        raise TerminalUnavailable(
            f"the terminal {name!r}, which root.json names, cannot be used: "
            f"{type(error).__name__}: {error}",
            hint=f"name an importable class as package.module:Class, or {DEFAULT_TERMINAL!r}",
        ) from error


def _find_class(name: str) -> Callable[..., Terminal]:
    module, colon, attribute = _BUILTIN.get(name, name).partition(":")
    if not colon:
        return _from_entry_point(name)
    return cast("Callable[..., Terminal]", getattr(importlib.import_module(module), attribute))


def _from_entry_point(name: str) -> Callable[..., Terminal]:
    from importlib.metadata import entry_points  # noqa: PLC0415 - slow, for named terminals only

    for point in entry_points(group=GROUP, name=name):
        return cast("Callable[..., Terminal]", point.load())
    raise LookupError(f"no entry point of that name is installed in the group {GROUP!r}")
