"""
The choice of a root's terminal: the class that ``root.json`` names under ``terminal``.

``tmux`` is the default. Any other class is named by its path, ``package.module:Class``. It is
called with the root's socket path and ``timeout_s``, and implements
:class:`~orchestrator_core.system.terminal.Terminal`. Its optional attribute ``processes``
replaces this machine's processes. Every process that opens the root imports it, also the
supervisor's unwinder: the class stands in a module that is importable everywhere.
"""

from __future__ import annotations

import pkgutil
from typing import TYPE_CHECKING

from orchestrator_core.exceptions import TerminalUnavailable
from orchestrator_core.model.layout import DEFAULT_TERMINAL

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator_core.system.terminal import Terminal

_PATHS = {DEFAULT_TERMINAL: "orchestrator_core.system.tmux:TmuxTerminal"}


def load_terminal(name: str, socket: Path, *, timeout_s: float) -> Terminal:
    """
    Return a new instance of the terminal class called *name*.

    Raises:
        TerminalUnavailable: The class cannot be imported, or not be called.
    """
    try:
        terminal: Terminal = pkgutil.resolve_name(_PATHS.get(name, name))(
            socket, timeout_s=timeout_s
        )
    except Exception as error:
        raise TerminalUnavailable(
            f"the terminal {name!r}, which root.json names, cannot be used: "
            f"{type(error).__name__}: {error}",
            hint=f"name an importable class as package.module:Class, or {DEFAULT_TERMINAL!r}",
        ) from error
    return terminal
