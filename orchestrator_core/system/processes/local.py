"""The processes of this machine: :class:`Processes`, kept by the kernel."""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING

from orchestrator_core.exceptions import CouldNotAsk, InvalidInput
from orchestrator_core.system.processes import (
    cgroups,
    identity,
    open_files,
    ownership,
    table,
    termination,
)
from orchestrator_core.system.processes.protocol import TaggedProcess, WatchResult

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from orchestrator_core.system.processes.protocol import (
        FileId,
        GracePeriods,
        Identity,
        OpenFile,
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

    *containment* says what may contain an agent, and what counts as a proof that
    all of it has ended: "auto" (the strongest there is), "cgroup", "subreaper",
    or "scan" alone. ``ORCHESTRATOR_CONTAINMENT`` is the default for it.
    """

    def __init__(self, *, containment: str | None = None) -> None:
        chosen = containment or os.environ.get("ORCHESTRATOR_CONTAINMENT") or "auto"
        if chosen not in _ACCEPTED_PROOFS:
            raise InvalidInput(
                f"containment {chosen!r} is not one of {', '.join(_ACCEPTED_PROOFS)}",
                hint="choose one of these, or unset ORCHESTRATOR_CONTAINMENT",
            )
        self._accepted = _ACCEPTED_PROOFS[chosen]

    def identify(self, pid: int) -> Identity | None:
        """Return the identity of the living process *pid*; None if there is none, or a zombie."""
        return identity.identify(pid)

    def is_alive(self, who: Identity) -> bool:
        """Tell whether *who* is alive. A zombie is not; nor is anyone of another boot."""
        return identity.is_alive(who)

    def find_tagged(self, prefix: str) -> tuple[TaggedProcess, ...]:
        """Return all living processes whose cookie begins with *prefix*; see the protocol."""
        found = []
        saw_self = False
        for row in table.snapshot():
            saw_self = saw_self or row.pid == os.getpid()
            if row.cookie is not None and row.cookie.startswith(prefix):
                found.append(TaggedProcess(row.identity, row.comm, row.cookie))
        if not saw_self:
            # It shows not even us: a table that could not be read, not a machine without agents.
            raise CouldNotAsk("the table of processes cannot be read", hint="is /proc mounted?")
        return tuple(found)

    def signal(self, who: Identity, signum: int) -> bool:
        """Send *signum* to *who* and to nobody else; False if it is gone."""
        with identity.open_handle(who) as handle:
            return handle is not None and handle.signal(signum)

    def watch(
        self, who: Identity | None, *, timeout_s: float, fd: int | None = None
    ) -> WatchResult:
        """Wait until *who* has ended, or *fd* is readable, or *timeout_s* is over."""
        until = time.monotonic() + timeout_s
        with contextlib.ExitStack() as stack:
            handle = None if who is None else stack.enter_context(identity.open_handle(who))
            exited = who is not None and handle is None
            fds = [each for each in (handle.fd if handle else None, fd) if each is not None]
            ready = identity.wait_readable(fds, 0.0 if exited else until)
            return WatchResult(
                readable=fd in ready, exited=exited or (handle is not None and handle.fd in ready)
            )

    def find_open_files(self, files: Collection[FileId]) -> tuple[OpenFile, ...]:
        """Return who has one of *files* open, once for each of its descriptors, by one pass."""
        return open_files.find_open_files(files)

    def age_s(self, who: Identity) -> float:
        """Return how long ago *who* was started, whether it is alive or not, in this boot."""
        return identity.age_s(who)

    def cwd_of(self, who: Identity) -> Path | None:
        """Return the directory in which *who* works; None if it has ended, or does not tell."""
        return identity.cwd_of(who)

    def owned_processes(self, claim: OwnershipSelector) -> tuple[Identity, ...]:
        """Return who is covered by *claim* now: whom :meth:`terminate_all` would end."""
        return tuple(row.identity for row in ownership.owned_rows(claim))

    def includes_self(self, claim: OwnershipSelector) -> bool:
        """Tell whether the calling process would be ended with what *claim* covers."""
        return ownership.includes_self(claim)

    def cgroup_path(self, name: str) -> str | None:
        """Return the directory that a cgroup called *name* would have; None if none can be had."""
        return cgroups.path_for(name) if "cgroup" in self._accepted else None

    def create_cgroup(self, directory: str) -> bool:
        """Make the cgroup that :meth:`cgroup_path` named, if it can be made."""
        return cgroups.create(directory)

    def terminate_all(self, claim: OwnershipSelector, patience: GracePeriods) -> TerminationResult:
        """End everything that *claim* covers, gently first, and prove it."""
        return termination.terminate_all(claim, patience, accepted_proofs=self._accepted)
