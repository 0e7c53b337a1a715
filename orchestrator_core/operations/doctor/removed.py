"""The check for agents whose root was removed: those that run on, and what is saved of others."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from orchestrator_core.operations.doctor.check import Check, Environment, shorten_list
from orchestrator_core.reconcile.removed_roots import ANY_COOKIE, find_removed
from orchestrator_core.system import paths
from orchestrator_core.system.processes import LocalProcesses

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def removed_roots(_environment: Environment) -> Check:
    """Look for agents of removed roots of this user, alive or saved by their supervisors."""
    alive = find_removed(LocalProcesses().find_tagged(ANY_COOKIE))
    if alive:
        names = shorten_list(f"{agent.agent_id} of {agent.root}" for agent in alive)
        return Check.warning(
            f"{len(alive)} agents run on, whose roots were removed: {names}",
            "in any root of this user: orchestrator-core sweep --reap",
        )
    saved = [*_saved()]
    if saved:
        directories = shorten_list(sorted({str(path.parent) for path in saved}))
        return Check.ok(
            f"no agent of one runs; the ends of {len(saved)} are recorded in {directories}"
        )
    return Check.ok("no agent of one runs")


def _saved() -> Iterator[Path]:
    """Yield the exit records that supervisors have saved in private directories of this user."""
    for directory in dict.fromkeys(paths.user_directories()):
        try:
            if directory.lstat().st_uid == os.geteuid():
                yield from (directory / "removed").glob("oc_*.json")
        except OSError:
            continue
