"""
The doctor: looks at a root, and at the machine it is on, and says what to do.

It takes nothing for granted: the root may be missing, damaged, read-only or on
a file system that hangs, and tmux may be missing or stopped. Each check is one
function, they run side by side, and one that fails or does not answer in time
takes no other with it. Nothing is changed; one check works in a private
directory of its own inside the root, which is gone afterwards.
"""

from __future__ import annotations

import os
import subprocess
import threading
import time
from typing import TYPE_CHECKING

from orchestrator_core.exceptions import OrchestratorError
from orchestrator_core.model.layout import find_root
from orchestrator_core.operations.doctor import (
    agent_programs,
    clock_check,
    filesystem,
    integrity,
    lock_check,
    machine,
    resource_limits,
    root,
    software,
    tmux_check,
)
from orchestrator_core.operations.doctor.check import (
    Answer,
    Check,
    Environment,
    Verdict,
    from_error,
    unknown,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    Look = Callable[[Environment], Answer]

__all__ = ["CHECKS", "Check", "Verdict", "examine"]

CHECKS: dict[str, Look] = {
    "python": software.python,
    "libraries": software.libraries,
    "locale": software.locale,
    "environment": software.environment,
    "agents": agent_programs.programs,
    "tmux": tmux_check.program,
    "tmux socket": tmux_check.socket_file,
    "tmux server": tmux_check.server,
    "tmux server's files": tmux_check.descriptors,
    "root": root.root_directory,
    "permissions": root.permissions,
    "settings": root.settings_file,
    "file system": filesystem.kind,
    "file operations": filesystem.operations,
    "space": filesystem.space,
    "clock": clock_check.clock_is_sane,
    "pidfd": machine.pidfd,
    "/proc": machine.procfs,
    "subreaper": machine.subreaper,
    "containment": machine.containment,
    "open files": resource_limits.open_files,
    "file events": resource_limits.file_events,
    "processes": resource_limits.processes,
    "locks": lock_check.locks,
    "root.json": integrity.root_file,
    "registries": integrity.registries,
    "journals": integrity.journals,
}
"""All checks, in the order in which they are told."""


def examine(
    root: str | os.PathLike[str] | None = None,
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout_s: float = 10.0,
) -> tuple[Check, ...]:
    """
    Examine a root, found as :class:`~orchestrator_core.Orchestrator` finds it, and the machine.

    Raises nothing, makes and mends nothing, and takes no longer than *timeout_s*,
    and a moment: what is not known by then is ``unknown``. The thread of a check
    that does not answer at all is left behind. Where no thread can be started,
    the checks run one after another, and nothing bounds them.
    """
    deadline = time.monotonic() + timeout_s
    subject = _subject(root, env=env, cwd=cwd, timeout_s=timeout_s / 2)
    runs = [_Run(name, look, subject) for name, look in CHECKS.items()]
    return tuple(run.within(deadline) for run in runs)


def _subject(
    root: str | os.PathLike[str] | None,
    *,
    env: Mapping[str, str] | None,
    cwd: Path | None,
    timeout_s: float,
) -> Environment:
    env = os.environ if env is None else env
    found: list[Environment] = []

    def find() -> None:
        try:
            place, chosen_by = find_root(root, env=env, cwd=cwd)
            found.append(Environment(place, chosen_by, "", env, timeout_s))
        except OSError as error:  # Our working directory is gone.
            trouble = f"no root can be found from the working directory: {error}"
            found.append(Environment(None, "", trouble, env, timeout_s))
        except Exception as error:  # noqa: BLE001 - whatever it is, the checks tell it
            found.append(Environment(None, "", str(error), env, timeout_s))

    # Symlinks are followed for it, which asks the disk, and so may hang.
    thread = threading.Thread(target=find, name="doctor: the root", daemon=True)
    if _begin(thread):
        thread.join(timeout_s)
    else:
        find()
    late = Environment(None, "", "where the root is was not found out in time", env, timeout_s)
    return (found or [late])[0]


def _begin(thread: threading.Thread) -> bool:
    """Start a thread; False if there may be no more of them."""
    try:
        thread.start()
    except RuntimeError:
        return False
    return True


class _Run:
    """One check at work, in a thread that nobody has to wait for."""

    def __init__(self, name: str, look: Look, subject: Environment) -> None:
        self._name = name
        self._answers: list[Answer] = []
        self._thread = threading.Thread(
            target=self._look, args=(look, subject), name=f"doctor: {name}", daemon=True
        )
        self._has_begun = _begin(self._thread)
        if not self._has_begun:
            # Nobody else can be asked to: better late than not at all.
            self._look(look, subject)

    def _look(self, look: Look, subject: Environment) -> None:
        try:
            answer = look(subject)
        except subprocess.TimeoutExpired as error:
            answer = unknown(f"no answer in time: {error}", "try again when less is going on")
        except (OSError, OrchestratorError) as error:
            answer = from_error(error)
        except Exception as error:  # noqa: BLE001 - one check takes no other with it
            answer = unknown(
                f"the check itself failed: {error!r}", "that is a defect of ours: please report it"
            )
        self._answers.append(answer)

    def within(self, deadline: float) -> Check:
        if self._has_begun:
            self._thread.join(max(0.0, deadline - time.monotonic()))
        late = unknown("it was not found out in time", "look at what it asks: does that hang?")
        [answer] = self._answers[:1] or [late]
        return Check(
            name=self._name, verdict=answer.verdict, found=answer.found, remedy=answer.remedy
        )
