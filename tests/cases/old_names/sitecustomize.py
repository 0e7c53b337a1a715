"""
Former names of this package, for programs that were written before its rooms were renamed.

The tests of shared cases put this directory on the path of the programs that they run.
"""

import importlib
import os
import sys
import types
from importlib.abc import Loader, MetaPathFinder
from importlib.util import spec_from_loader


def _layout():
    from orchestrator_core.model.layout import Layout  # noqa: PLC0415 - when it is asked for

    Layout.run = Layout.run_dir
    return {"Places": Layout}


def _kinds():
    from orchestrator_core.mcp.agent_kind import kind_from  # noqa: PLC0415

    return {"kind_of": kind_from}


def _events():
    from orchestrator_core.system.event_reader import SupervisorEvents  # noqa: PLC0415

    class News(SupervisorEvents):
        first_of = SupervisorEvents.wait_for

    return {"News": News}


def _scans():
    from orchestrator_core.system.shared_scan import SharedScan  # noqa: PLC0415

    class Passes:
        def __init__(self, _things):
            self._shared = SharedScan(lambda: None)

        @property
        def _guard(self):
            return self._shared._lock

        @_guard.setter
        def _guard(self, lock):
            self._shared._lock = lock

        def one(self, work, *, since):  # noqa: ARG002 - the former signature
            self._shared._scan = work
            return self._shared.get()

    return {"Passes": Passes}


def _module(name):
    return lambda: vars(importlib.import_module(name))


_FORMER = {
    "orchestrator_core._files": _module("orchestrator_core.system.durable"),
    "orchestrator_core._passes": _scans,
    "orchestrator_core.mcp.agents": _kinds,
    "orchestrator_core.news": _events,
    "orchestrator_core.places": _layout,
    "orchestrator_core.processes": _module("orchestrator_core.system.processes"),
    "orchestrator_core.settings": _module("orchestrator_core.model.settings"),
    "orchestrator_core.steps": dict,
    "orchestrator_core.steps.files": _module("orchestrator_core.deployment.steps.session"),
}


class _Files(types.ModuleType):
    """The former module of file operations, whose ``swap`` a program may replace."""

    @property
    def swap(self):
        return importlib.import_module("orchestrator_core.system.durable").replace_unsynced

    @swap.setter
    def swap(self, function):
        importlib.import_module("orchestrator_core.system.durable").replace_unsynced = function


class _Former(MetaPathFinder, Loader):
    """The modules of the former names, each with what it has now."""

    def find_spec(self, name, _path=None, _target=None):
        is_package = name == "orchestrator_core.steps"
        return spec_from_loader(name, self, is_package=is_package) if name in _FORMER else None

    def create_module(self, spec):
        kind = _Files if spec.name == "orchestrator_core._files" else types.ModuleType
        return kind(spec.name)

    def exec_module(self, module):
        found = _FORMER[module.__name__]()
        vars(module).update({name: value for name, value in found.items() if name[:2] != "__"})


sys.meta_path.append(_Former())

if os.environ.get("FORMER_ATTRIBUTES"):
    from orchestrator_core.orchestrator import Orchestrator

    Orchestrator._lifecycle = property(lambda self: self._terminator)
