"""
The doctor: examines a root and its machine, and reports what to do.

- The root may be missing, damaged, read-only or on a file system that hangs. tmux may be
  missing or stopped.
- Each check is one function. The checks run in parallel, and a check that fails or hangs
  affects no other check.
- Nothing is changed. One check works in a private directory inside the root, and removes it.
"""

from __future__ import annotations

import os
import subprocess
import threading
import time
from concurrent.futures import Future, wait
from typing import TYPE_CHECKING, TypeVar

import attrs

from orchestrator_core.exceptions import OrchestratorError
from orchestrator_core.model.layout import find_root
from orchestrator_core.operations.doctor import (
    filesystem,
    integrity,
    machine,
    removed,
    resource_limits,
    root,
    software,
    tmux_check,
)
from orchestrator_core.operations.doctor.check import Check, Environment, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

__all__ = ["CHECKS", "Check", "Verdict", "examine"]

T = TypeVar("T")

CHECKS: dict[str, Callable[[Environment], Check]] = {
    "python": software.python,
    "libraries": software.libraries,
    "locale": software.locale,
    "environment": software.environment,
    "agents": software.agent_programs,
    "tmux": tmux_check.program,
    "tmux socket": tmux_check.socket_file,
    "tmux server": tmux_check.server,
    "tmux server's files": tmux_check.descriptors,
    "root": root.root_directory,
    "permissions": root.permissions,
    "settings": root.settings_file,
    "removed roots": removed.removed_roots,
    "file system": filesystem.kind,
    "file operations": filesystem.operations,
    "space": filesystem.space,
    "clock": machine.clock_is_sane,
    "pidfd": machine.pidfd,
    "/proc": machine.procfs,
    "subreaper": machine.subreaper,
    "containment": machine.containment,
    "open files": resource_limits.open_files,
    "file events": resource_limits.file_events,
    "processes": resource_limits.processes,
    "locks": integrity.locks,
    "root.json": integrity.root_file,
    "registries": integrity.registries,
    "journals": integrity.journals,
}
"""All checks, in the order of the report."""


def examine(
    root: str | os.PathLike[str] | None = None,
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout_s: float = 10.0,
) -> tuple[Check, ...]:
    """
    Examine a root, found as :class:`~orchestrator_core.Orchestrator` finds it, and the machine.

    - No error is raised, and nothing is created or repaired.
    - The call returns within about *timeout_s* seconds. A check that has not returned by then
      is ``unknown``, and its thread is abandoned.
    - If no thread can be started, the checks run one after another without a time limit.
    """
    deadline = time.monotonic() + timeout_s
    env = os.environ if env is None else env
    late = Environment(None, "", "the root was not found in time", env, timeout_s / 2)
    # The search resolves symlinks, which reads the disk, and so may hang.
    search = _start("the root", _find_environment, late, root, cwd)
    environment = _result_by(deadline - timeout_s / 2, search, late)
    results = {name: _start(name, _run, check, environment) for name, check in CHECKS.items()}
    late_check = Check.unknown("no result in time", "does something that the check reads hang?")
    return tuple(
        attrs.evolve(_result_by(deadline, result, late_check), name=name)
        for name, result in results.items()
    )


def _find_environment(
    unknown_root: Environment, root: str | os.PathLike[str] | None, cwd: Path | None
) -> Environment:
    """Return *unknown_root* with the root, or with the reason why there is none."""
    try:
        path, chosen_by = find_root(root, env=unknown_root.env, cwd=cwd)
    except OSError as error:  # The working directory is gone.
        problem = f"no root can be found from the working directory: {error}"
        return attrs.evolve(unknown_root, root_error=problem)
    except Exception as error:  # noqa: BLE001 - the check of the root reports it
        return attrs.evolve(unknown_root, root_error=str(error))
    return attrs.evolve(unknown_root, root=path, chosen_by=chosen_by, root_error="")


def _run(check: Callable[[Environment], Check], environment: Environment) -> Check:
    try:
        return check(environment)
    except subprocess.TimeoutExpired as error:
        return Check.unknown(
            f"no answer in time: {error}", "try again when the machine is less busy"
        )
    except ImportError as error:
        return Check.failed(f"cannot be checked: {error}", "see: libraries")
    except (OSError, OrchestratorError) as error:
        return Check.from_error(error)
    except Exception as error:  # noqa: BLE001 - one check affects no other check
        remedy = "this is a defect of orchestrator-core: please report it"
        return Check.unknown(f"the check itself failed: {error!r}", remedy)


def _start(name: str, call: Callable[..., T], *args: object) -> Future[T]:
    """Start a call in a separate daemon thread; make it here if no thread can be started."""
    future: Future[T] = Future()

    def run() -> None:
        future.set_result(call(*args))

    try:
        threading.Thread(target=run, name=f"doctor: {name}", daemon=True).start()
    except RuntimeError:
        run()
    return future


def _result_by(deadline: float, future: Future[T], default: T) -> T:
    wait([future], max(0.0, deadline - time.monotonic()))
    return future.result() if future.done() else default
