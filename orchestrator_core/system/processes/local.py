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
from orchestrator_core.system.processes.protocol import Marked, Seen

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from orchestrator_core.system.processes.protocol import (
        Claim,
        Ending,
        FileId,
        Holder,
        Identity,
        Patience,
    )

_TRUSTED = {
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
        if chosen not in _TRUSTED:
            raise InvalidInput(
                f"containment {chosen!r} is not one of {', '.join(_TRUSTED)}",
                hint="choose one of these, or unset ORCHESTRATOR_CONTAINMENT",
            )
        self._trust = _TRUSTED[chosen]

    def identify(self, pid: int) -> Identity | None:
        """Return the identity of the living process *pid*; None if there is none, or a zombie."""
        return identity.identify(pid)

    def is_alive(self, who: Identity) -> bool:
        """Tell whether *who* is alive. A zombie is not; nor is anyone of another boot."""
        return identity.is_alive(who)

    def marked(self, prefix: str) -> tuple[Marked, ...]:
        """Return all living processes whose cookie begins with *prefix*; see the protocol."""
        found = []
        saw_us = False
        for row in table.rows():
            saw_us = saw_us or row.pid == os.getpid()
            if row.cookie is not None and row.cookie.startswith(prefix):
                found.append(Marked(row.identity, row.comm, row.cookie))
        if not saw_us:
            # It shows not even us: a table that could not be read, not a machine without agents.
            raise CouldNotAsk("the table of processes cannot be read", hint="is /proc mounted?")
        return tuple(found)

    def signal(self, who: Identity, signum: int) -> bool:
        """Send *signum* to *who* and to nobody else; False if it is gone."""
        with identity.held(who) as handle:
            return handle is not None and handle.signal(signum)

    def watch(self, who: Identity | None, *, timeout_s: float, fd: int | None = None) -> Seen:
        """Wait until *who* has ended, or *fd* is readable, or *timeout_s* is over."""
        until = time.monotonic() + timeout_s
        with contextlib.ExitStack() as stack:
            handle = None if who is None else stack.enter_context(identity.held(who))
            gone = who is not None and handle is None
            fds = [each for each in (handle.fd if handle else None, fd) if each is not None]
            ready = identity.wait_readable(fds, 0.0 if gone else until)
            return Seen(news=fd in ready, gone=gone or (handle is not None and handle.fd in ready))

    def holders(self, files: Collection[FileId]) -> tuple[Holder, ...]:
        """Return who has one of *files* open, once for each of its descriptors, by one pass."""
        return open_files.holders(files)

    def age_s(self, who: Identity) -> float:
        """Return how long ago *who* was started, whether it is alive or not, in this boot."""
        return identity.age_s(who)

    def directory(self, who: Identity) -> Path | None:
        """Return the directory in which *who* works; None if it has ended, or does not tell."""
        return identity.directory(who)

    def covered(self, claim: Claim) -> tuple[Identity, ...]:
        """Return who is covered by *claim* now: whom :meth:`end` would end."""
        return tuple(row.identity for row in ownership.covered(claim))

    def is_inside(self, claim: Claim) -> bool:
        """Tell whether the calling process would be ended with what *claim* covers."""
        return ownership.is_inside(claim)

    def containment(self, name: str) -> str | None:
        """Return the directory that a cgroup called *name* would have; None if none can be had."""
        return cgroups.place(name) if "cgroup" in self._trust else None

    def make_containment(self, directory: str) -> bool:
        """Make the cgroup that :meth:`containment` named, if it can be made."""
        return cgroups.make(directory)

    def end(self, claim: Claim, patience: Patience) -> Ending:
        """End everything that *claim* covers, gently first, and prove it."""
        return termination.end(claim, patience, trust=self._trust)
