"""The check of the clock. Deadlines, ages and the order of events depend on it."""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from orchestrator_core.deployment.steps.session import SessionReceipt
from orchestrator_core.exceptions import SagaError, StorageError
from orchestrator_core.operations.doctor.check import (
    Check,
    Environment,
    modification_times,
    shorten_list,
)
from orchestrator_core.saga.receipts import name_of
from orchestrator_core.saga.store import SUFFIX, JournalStore
from orchestrator_core.system.processes import identity

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


_IS_LINUX = sys.platform == "linux"
_TOLERANCE_S = 60.0  #: The slow correction of a clock while an agent lives.
_FIRST_RELEASE_S = datetime(2025, 1, 1, tzinfo=UTC).timestamp()
_SET_CLOCK = "set the clock: timedatectl set-ntp true"
_WRITTEN = ("sagas/*.jsonl", "sagas/closed/*.jsonl", "registry/*", "TASK-*/*.json")


def clock_is_sane(environment: Environment) -> Check:
    """Check that the clock is later than every written file, and was not set meanwhile."""
    now = time.time()
    problems = []
    if now < _FIRST_RELEASE_S:
        problems.append(Check.failed(f"the clock is at {_format_time(now)}", _SET_CLOCK))
    if environment.layout is not None:
        problems += _check_last_write(environment.layout.root, now)
        problems += _check_steps(environment.layout.sagas, now)
    return Check.worst_of(problems, well=f"it is {_format_time(now)}, and nothing here is later")


def _format_time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _check_last_write(root: Path, now: float) -> Iterator[Check]:
    newest, path = max(modification_times(root, *_WRITTEN), default=(0.0, root))
    if newest > now + 1.0:
        yield Check.warning(
            f"{path} was written at {_format_time(newest)}, and it is {_format_time(now)}: "
            "the clock was set back",
            f"{_SET_CLOCK}; deadlines come late by as much",
        )


def _check_steps(sagas: Path, now: float) -> Iterator[Check]:
    """Compare the deployment time of each live agent with the age of its supervisor."""
    if not _IS_LINUX:
        return
    journals = JournalStore(sagas)
    steps = {}
    for path in sagas.glob(f"*{SUFFIX}"):  # JournalStore.ids() may write.
        try:
            history = journals.history(path.name.removesuffix(SUFFIX))
            frame = history.frame(name_of(SessionReceipt))
            supervisor = None if frame is None else frame.load().supervisor
        except (SagaError, StorageError):
            continue
        if supervisor is not None and identity.is_alive(supervisor):
            started_at = now - identity.age_s(supervisor)
            step = started_at - datetime.fromisoformat(history.begun_at).timestamp()
            if abs(step) > _TOLERANCE_S:
                steps[history.saga_id] = step
    if steps:
        yield Check.warning(
            f"the clock was set by {max(steps.values(), key=abs):+.0f} s "
            f"since {shorten_list(steps)} was deployed",
            f"{_SET_CLOCK}; deadlines of such agents are off by as much",
        )
