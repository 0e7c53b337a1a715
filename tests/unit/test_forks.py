"""A process forked while threads use the library for the first time can use it, too."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from orchestrator_core.reconcile.sweep import reap
from orchestrator_core.system.lazy import LazyAttribute

TOP = Path(__file__).parents[2]

#: A thread is in the middle of SLOW when the process forks; the child then does the same.
PROGRAM = """
import os, signal, sys, threading, time
from orchestrator_core import Orchestrator
{setup}
in_it = threading.Event()

def slow():
    in_it.set()
    time.sleep(0.3)

threading.Thread(target=use).start()
in_it.wait()
child = os.fork()
if not child:
    signal.alarm(20)  # It ends a child that waits for ever.
    use()
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""

IMPORT = """
from importlib.machinery import ModuleSpec

class Slow:
    find_spec = lambda self, name, *_: ModuleSpec(name, self) if name.endswith("_slow") else None
    create_module = lambda self, spec: None
    exec_module = lambda self, module: slow()

class SlowToFind(Slow):
    def find_spec(self, name, *_):
        if name.endswith("_slow"):
            slow()
        return super().find_spec(name)
    exec_module = lambda self, module: None

sys.meta_path.insert(0, FINDER())

def use():
    import orchestrator_core._slow
"""

ATTRIBUTE = """
from orchestrator_core.system.lazy import LazyAttribute

class Owner:
    @LazyAttribute
    def part(self):
        slow()

owner = Owner()
use = lambda: owner.part
"""


@pytest.mark.parametrize(
    "setup",
    [
        pytest.param(IMPORT.replace("FINDER", "Slow"), id="an import"),
        pytest.param(IMPORT.replace("FINDER", "SlowToFind"), id="the search for a module"),
        pytest.param(ATTRIBUTE, id="a part of the orchestrator"),
    ],
)
def test_a_fork_during_the_first_use_leaves_a_child_that_works(setup):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(setup=setup)],
        env={**os.environ, "PYTHONPATH": str(TOP)},
        check=False,
    )

    assert 0 == done.returncode


def test_a_lazy_attribute_is_computed_once():
    class Owner:
        made = 0

        @LazyAttribute
        def part(self):
            """Return a part."""
            self.made += 1
            return object()

    owner = Owner()

    assert owner.part is owner.part
    assert (1, "Return a part.") == (owner.made, Owner.part.__doc__)


def test_a_sweep_works_in_an_exit_handler(tmp_path):
    """The program has not swept before: it imports the sweep then."""
    program = (
        "import atexit, sys\n"
        "from orchestrator_core import Orchestrator\n"
        "orch = Orchestrator(sys.argv[1])\n"
        "atexit.register(lambda: print(orch.sweep(reap=True).clean))\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "ws")],
        env={**os.environ, "PYTHONPATH": str(TOP)},
        capture_output=True,
        text=True,
        check=True,
    )

    assert ("True\n", "") == (done.stdout, done.stderr)


def test_leftovers_are_reaped_without_a_thread_at_the_end_of_a_program():
    """The pool is shut down then, as it is here."""
    pool = ThreadPoolExecutor(1)
    pool.shutdown()
    reaper = SimpleNamespace(run=lambda action, findings: [action, *findings])

    assert ["an action", "a finding"] == reap._submit(
        pool, reaper, "an action", ["a finding"]
    ).result()
