"""
Forks: a child gets no module that a thread of its parent was importing.

The child has a copy of that module's lock, and no thread of the child releases it: the child's
own import of the module would wait for ever. So a fork first waits for the imports of this
package that are under way, which take milliseconds.
"""

from __future__ import annotations

import _frozen_importlib
import contextlib
import importlib
import os

_PACKAGE = __name__.partition(".")[0]
_MAX_PASSES = 100  #: A module that the forking thread itself imports stays in the list.


def _finish_imports() -> None:
    for _ in range(_MAX_PASSES):
        names = [name for name in list(_locked_modules()) if name.startswith(_PACKAGE)]
        if not names:
            return
        for name in names:
            with contextlib.suppress(Exception):  # Of the import, whose own caller gets it.
                importlib.import_module(name)  # It waits for the thread that imports it.


def _locked_modules() -> dict[str, object]:
    """Return the modules that are looked for or executed now; a lock lives no longer."""
    found: dict[str, object] = getattr(_frozen_importlib, "_module_locks", {})
    return found


os.register_at_fork(before=_finish_imports)
