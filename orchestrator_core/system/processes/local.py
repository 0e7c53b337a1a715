"""The processes of this machine: the real implementation of :class:`Processes`."""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING

from orchestrator_core.exceptions import InvalidInput
from orchestrator_core.system.event_reader import wait_readable
from orchestrator_core.system.processes import (
    cgroups,
    identity,
    mentions,
    open_files,
    ownership,
    table,
    termination,
)
from orchestrator_core.system.processes.protocol import TaggedProcess, WatchResult

if TYPE_CHECKING:
    from orchestrator_core.system.processes.protocol import (
        GracePeriods,
        Identity,
        OwnershipSelector,
        TerminationResult,
    )

_ACCEPTED_PROOFS = {
    "auto": frozenset({"cgroup", "subreaper"}),
    "cgroup": frozenset({"cgroup"}),
    "subreaper": frozenset({"subreaper"}),
    "scan": frozenset[str](),
}


class LocalProcesses:
    """
    The processes of this machine.

    *containment* selects what may contain an agent, and what counts as a proof that all its
    processes have ended: "auto" (the strongest available), "cgroup", "subreaper", or "scan"
    alone. ``ORCHESTRATOR_CONTAINMENT`` is the default for it.
    """

    def __init__(self, *, containment: str | None = None) -> None:
        chosen = containment or os.environ.get("ORCHESTRATOR_CONTAINMENT") or "auto"
        if chosen not in _ACCEPTED_PROOFS:
            raise InvalidInput(
                f"containment {chosen!r} is not one of {', '.join(_ACCEPTED_PROOFS)}",
                hint="choose one of these, or unset ORCHESTRATOR_CONTAINMENT",
            )
        self._accepted = _ACCEPTED_PROOFS[chosen]

    identify = staticmethod(identity.identify)
    is_alive = staticmethod(identity.is_alive)
    age_s = staticmethod(identity.age_s)
    pane_of = staticmethod(identity.pane_of)
    cwd_of = staticmethod(identity.cwd_of)
    find_open_files = staticmethod(open_files.find_open_files)
    find_mentions = staticmethod(mentions.find_mentions)
    includes_self = staticmethod(ownership.includes_self)
    find_supervisor = staticmethod(ownership.find_supervisor)
    create_cgroup = staticmethod(cgroups.create)

    def find_tagged(self, prefix: str) -> tuple[TaggedProcess, ...]:
        """Return all living processes whose cookie begins with *prefix*; see the protocol."""
        return tuple(
            TaggedProcess(row.identity, row.comm, row.cookie)
            for row in table.snapshot()
            if row.cookie is not None and row.cookie.startswith(prefix)
        )

    def signal(self, process: Identity, signum: int) -> bool:
        """Send *signum* to *process* and no other process; return False if it has ended."""
        with identity.open_handle(process) as handle:
            return handle is not None and handle.signal(signum)

    def watch(
        self, process: Identity | None, *, timeout_s: float, fd: int | None = None
    ) -> WatchResult:
        """Wait until *process* has ended, *fd* is readable, or *timeout_s* has passed."""
        deadline = time.monotonic() + timeout_s
        with contextlib.ExitStack() as stack:
            handle = None if process is None else stack.enter_context(identity.open_handle(process))
            exited = process is not None and handle is None
            fds = [each for each in (handle.fd if handle else None, fd) if each is not None]
            ready = wait_readable(fds, 0.0 if exited else deadline)
            exited = exited or (handle is not None and handle.fd in ready)
            return WatchResult(readable=fd in ready, exited=exited)

    def owned_processes(self, selector: OwnershipSelector) -> tuple[Identity, ...]:
        """Return the processes that :meth:`terminate_all` would terminate now."""
        return tuple(row.identity for row in ownership.owned_rows(selector))

    def cgroup_path(self, name: str) -> str | None:
        """Return the directory of a cgroup called *name*; None if the system allows none."""
        return cgroups.path_for(name) if "cgroup" in self._accepted else None

    def terminate_all(self, selector: OwnershipSelector, grace: GracePeriods) -> TerminationResult:
        """Terminate all processes that *selector* covers, and prove that none is left."""
        return termination.terminate_all(selector, grace, accepted_proofs=self._accepted)
