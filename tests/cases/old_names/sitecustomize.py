"""
Former names of this package, for programs that were written before its rooms were renamed.

The tests of shared cases put this directory on the path of the programs that they run.
"""

import importlib
import sys
import types
from importlib.abc import Loader, MetaPathFinder
from importlib.util import spec_from_loader


def _layout():
    from orchestrator_core.model.layout import Layout  # noqa: PLC0415 - when it is asked for

    class Places(Layout):
        def __new__(cls, root):
            from pathlib import Path  # noqa: PLC0415

            return super().__new__(cls, Path(root))

        run = Layout.run_dir

    return {"Places": Places}


def _kinds():
    from orchestrator_core.mcp.agent_kind import kind_of  # noqa: PLC0415

    return {"kind_of": kind_of}


def _module(name):
    return lambda: vars(importlib.import_module(name))


_FORMER = {
    "orchestrator_core.places": _layout,
    "orchestrator_core.mcp.agents": _kinds,
    "orchestrator_core.settings": _module("orchestrator_core.model.settings"),
    "orchestrator_core.processes": _module("orchestrator_core.system.processes"),
}


class _Former(MetaPathFinder, Loader):
    """The modules of the former names, each with what it has now."""

    def find_spec(self, name, _path=None, _target=None):
        return spec_from_loader(name, self) if name in _FORMER else None

    def create_module(self, spec):
        return types.ModuleType(spec.name)

    def exec_module(self, module):
        found = _FORMER[module.__name__]()
        vars(module).update({name: value for name, value in found.items() if name[:2] != "__"})


sys.meta_path.append(_Former())
