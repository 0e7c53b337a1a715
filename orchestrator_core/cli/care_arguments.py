"""What can be said on the command line to look after a root: sweep, keep, examine, mend."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    _Commands = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001 - unnamed there

ALL: tuple[Callable[[_Commands], argparse.ArgumentParser], ...] = ()
"""Each adds one command."""
