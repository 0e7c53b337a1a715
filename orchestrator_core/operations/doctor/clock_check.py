"""The check of the clock: deadlines, ages and the order of things depend on it."""

from __future__ import annotations

import os
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from orchestrator_core.exceptions import SagaError, StorageError
from orchestrator_core.operations.doctor.check import (
    Answer,
    Environment,
    failed,
    shorten_list,
    warning,
    worst_of,
)
from orchestrator_core.saga.store import SUFFIX, JournalStore
from orchestrator_core.system.boot import boot_id
from orchestrator_core.system.processes import identity

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_IS_LINUX = sys.platform == "linux"
_SLACK_S = 60.0  #: So far a clock may be put right, little by little, while an agent lives.
_BEFORE_US = datetime(2025, 1, 1, tzinfo=UTC).timestamp()
_SET_CLOCK = "set the clock: timedatectl set-ntp true"


def clock_is_sane(subject: Environment) -> Answer:
    """See whether the clock is later than what was written, and was not set meanwhile."""
    now = time.time()
    answers = []
    if now < _BEFORE_US:
        answers.append(failed(f"the clock says {_at(now)}", _SET_CLOCK))
    if subject.layout is not None:
        newest = max(_written(subject.layout.root), default=(0.0, ""))
        if newest[0] > now + 1.0:
            answers.append(
                warning(
                    f"{newest[1]} was written at {_at(newest[0])}, and it is {_at(now)}: "
                    "the clock was set back",
                    f"{_SET_CLOCK}; deadlines come late by as much",
                )
            )
        answers += _steps(subject.layout.sagas)
    return worst_of(answers, well=f"it is {_at(now)}, and nothing here is later")


def _at(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _written(root: Path) -> Iterator[tuple[float, str]]:
    """Yield when each journal and registry was last written."""
    for pattern in ("sagas/*.jsonl", "sagas/closed/*.jsonl", "registry/*", "TASK-*/*.json"):
        for path in root.glob(pattern):
            try:
                yield path.lstat().st_mtime, str(path)
            except OSError:
                continue


def _steps(sagas: Path) -> list[Answer]:
    """Compare when agents say that they were born with how long their supervisors have lived."""
    if not _IS_LINUX:
        return []
    journals = JournalStore(sagas)
    boot = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    stepped = {}
    for path in sagas.glob(f"*{SUFFIX}"):
        try:
            history = journals.history(path.name.removesuffix(SUFFIX))
        except (SagaError, StorageError):
            continue
        frame = history.frame("spawn_tmux")
        who = (frame.receipt if frame else {}).get("supervisor") or {}
        if who.get("boot_id") == boot_id() and _is_alive(who):
            born = boot + who["started"] / os.sysconf("SC_CLK_TCK")
            step = born - datetime.fromisoformat(history.begun_at).timestamp()
            if abs(step) > _SLACK_S:
                stepped[history.saga_id] = step
    if not stepped:
        return []
    step_s = max(stepped.values(), key=abs)
    return [
        warning(
            f"the clock was set by {step_s:+.0f} s since {shorten_list(stepped)} was deployed",
            f"{_SET_CLOCK}; deadlines of such agents are off by as much",
        )
    ]


def _is_alive(who: dict[str, Any]) -> bool:
    found = identity.identify(who["pid"])
    return found is not None and found.started == who["started"]
