"""The public names of release 0.1.0 are importable, and the package's table of names is whole."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import warnings
from pathlib import Path

import pytest

import orchestrator_core
from orchestrator_core import Orchestrator

REPOSITORY = Path(__file__).parents[2]

#: The public names of release 0.1.0, by module.
NAMES = {
    "orchestrator_core": """
        Agent AgentResult AgentSpec CouldNotAsk DeploymentError EndReport ExportReport
        FailedCleanup Finding FindingKind GcReport Health InvalidId InvalidInput LimitReached
        Limits LockTimeout NotFound Orchestrator OrchestratorError Patience Reaped
        RegistryDamaged RegistryError RegistryTooNew ReportReceipt ReportedFinding
        ReportedProgress SagaBusy SagaError Stats Status StorageError Survivors SweepReport
        Sweeper Task TaskRunning TerminalError TerminalTimeout TerminalUnavailable TokenUsage
        WaitTimeout __version__
    """,
    "orchestrator_core.saga": """
        TRANSITIONS Context Frame History Journal JournalDirectory Observer Outcome Presence
        Reason Recovery RecoveryReport Result Saga Sagas State Step StepReport Unwind
        UnwindReport catalogue receipt step_name together
    """,
    "orchestrator_core.resources": """
        EnvFile GitWorktree Provision ReservedPort Subprocess TempDirectory
    """,
    "orchestrator_core.presets": "Program",
    "orchestrator_core.testing": """
        CrashPoint CrashPoints Dies Exits FakeProcess FakeProcesses FakeTerminal Refuses Runs
        Scene Script leaks
    """,
    "orchestrator_core.mcp": "AgentKind StepsTold register_tools",
    "orchestrator_core.aio": "AsyncOrchestrator",
    "orchestrator_core.otel": "TracingObserver",
    "orchestrator_core.prometheus": "StatsCollector",
    "orchestrator_core.pytest_plugin": """
        crash_points fake_agent fake_terminal no_leaks orchestrator
    """,
    "orchestrator_core.exceptions": """
        ChildrenLeft CouldNotAsk DeploymentError InvalidId InvalidInput JournalDamaged
        LimitReached LockTimeout NotFound OrchestratorError RegistryDamaged RegistryError
        RegistryTooNew SagaBusy SagaError SagaExists SagaNotFound SessionExists StorageError
        Survivors TaskRunning TerminalError TerminalTimeout TerminalUnavailable UndoFailed
        UnknownStep WaitTimeout
    """,
}

VERBS = """
    abandon agent agents create_task deploy export_task finish gc history read_findings
    read_output read_progress read_result recover repair report_finding report_progress stats
    sweep task tasks terminate wait damaged
"""

_IMPORT = re.compile(r"^\s*from (orchestrator_core[\w.]*) import (\([^)]*\)|[^\n(]+)", re.MULTILINE)


@pytest.mark.parametrize(
    ("module", "name"), [(module, name) for module in NAMES for name in NAMES[module].split()]
)
def test_a_name_of_the_first_release_is_importable(module, name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        assert getattr(importlib.import_module(module), name) is not None


def test_the_verbs_of_the_first_release_are_methods_of_the_orchestrator():
    assert [] == [verb for verb in VERBS.split() if not hasattr(Orchestrator, verb)]


def test_the_arguments_of_the_first_release_are_accepted():
    accepted = inspect.signature(Orchestrator).parameters
    given = """
        root terminal processes limits patience observer on_failed_cleanup recover timeout_s
        lock_timeout_s terminal_timeout_s
    """
    assert [] == [name for name in given.split() if name not in accepted]


def test_the_old_keyword_of_the_unwinder_works_and_warns(fake_scene):
    orch, acquired = fake_scene.orchestrator(), []
    agent = orch.deploy(orch.create_task("a task").id, fake_scene.spec()).id
    fake_scene.fake.kill_supervisor(f"agent_{agent}")

    with pytest.warns(DeprecationWarning, match="on_acquired"):
        assert orch.finish(agent, taken=lambda: acquired.append(agent)).success

    assert [agent] == acquired


@pytest.mark.parametrize("page", ["README.md", *sorted(map(str, Path("docs").rglob("*.md")))])
def test_the_imports_of_a_page_work(page):
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        for module, names in _IMPORT.findall((REPOSITORY / page).read_text()):
            for name in re.split(r"[,\s()]+", names.split("#")[0].strip("() \n")):
                assert not name or hasattr(importlib.import_module(module), name), (module, name)


def test_the_lazy_names_are_those_that_a_type_checker_reads():
    tree = ast.parse(Path(orchestrator_core.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    typed = {node.module: {alias.name for alias in node.names} for node in block.body}

    assert typed == {home: set(names) for home, names in orchestrator_core._HOMES.items()}
    assert {*orchestrator_core.__all__} == {"__version__"}.union(*typed.values())
