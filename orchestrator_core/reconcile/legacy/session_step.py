"""
The step that ends an old agent's session, and every process that is known to be its.

There is no supervisor to ask and no cookie to look for. So all that is below the
panes, and in their POSIX sessions, is written down by its identity *before*
anything is ended: what loses its parent is still known. Nothing of this misses
nothing, so the end is never called proven.

The agent goes first, then the ``tee`` that writes its log, which ends by itself
when it has written the last line; then the session.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from orchestrator_core.exceptions import Survivors, TerminalError
from orchestrator_core.model import ids
from orchestrator_core.reconcile.legacy.proof import roots_of, writers_of
from orchestrator_core.reconcile.legacy.server_protocol import LegacySession  # noqa: TC001 - msgspec reads it
from orchestrator_core.saga import Outcome, Presence, Unwind, receipt
from orchestrator_core.system.processes.protocol import Identity, OwnershipSelector

if TYPE_CHECKING:
    from collections.abc import Iterable

    from orchestrator_core.deployment.context import RootContext
    from orchestrator_core.saga import Context
    from orchestrator_core.system.processes.protocol import TerminationResult


@receipt("legacy_session")
@attrs.frozen(kw_only=True)
class LegacySessionReceipt:
    """The session of an agent that the old system started, and what proves that it is its."""

    session: str
    cookie: str  #: What its processes would carry if we had started them. None does.
    seen: LegacySession | None = None
    roots: tuple[Identity, ...] = ()
    logs: tuple[str, ...] = ()  #: Who writes these is the agent's, if it is as old.
    born: float | None = None  #: When the agent was started.
    proofs: tuple[str, ...] = ()

    # As the receipt of a session of ours, for whoever asks whether an agent lives:

    @property
    def supervisor(self) -> Identity | None:
        """The process with which its session ends."""
        return self.roots[0] if self.roots else None

    @property
    def exit_file(self) -> None:
        """Nobody has witnessed how it ends."""
        return

    @property
    def claim(self) -> OwnershipSelector:
        """What would be ended: for asking whether we are part of it."""
        return OwnershipSelector(cookie=self.cookie, extra_roots=self.roots)


@attrs.frozen
class EndLegacySession:
    """Nothing to do: the session was there before us."""

    context: RootContext

    receipt_type = LegacySessionReceipt

    def plan(self, ctx: Context) -> LegacySessionReceipt:
        """Name the session; nothing of it is known."""
        return LegacySessionReceipt(
            session=ids.session_name(ctx.saga_id),
            cookie=ids.process_cookie(self.context.root_id, ctx.saga_id),
        )

    def do(self, receipt: LegacySessionReceipt) -> LegacySessionReceipt:
        """Refuse: an agent of the old system is adopted, and never deployed."""
        raise RuntimeError(f"nobody deploys {receipt.session!r} with a step that only ends it")

    def undo(self, receipt: LegacySessionReceipt, _why: Unwind) -> Outcome:
        """End every process of the agent, then its session."""
        processes = self.context.processes
        if processes.includes_self(receipt.claim):
            raise Survivors("we are part of what is to be ended", leaked=[receipt.session])
        writers = writers_of(processes, map(Path, receipt.logs), receipt.born)
        roots = dict.fromkeys((*filter(processes.is_alive, receipt.roots), *roots_of(writers)))
        every = processes.owned_processes(self._claim(receipt, roots))
        ended = self._end_the_agent(receipt, every, {*roots, *(one.process for one in writers)})
        found = self._end_session(receipt)
        ending = processes.terminate_all(self._claim(receipt, every), self.context.patience)
        if ending.survivors:
            names = [f"{one.pid} ({one.name})" for one in ending.survivors]
            raise Survivors(f"still alive after SIGKILL: {', '.join(names)}", leaked=names)
        facts = {
            "session": found.value,
            "method": "scan",
            "proven": self._is_of_another_boot(receipt),
            "processes_ended": len(every),
            "forced": ending.forced or (ended is not None and ended.forced),
            "proofs": list(receipt.proofs),
        }
        if every or found is Presence.OURS:
            return Outcome.undone(**facts)
        return Outcome.left(**facts) if found is Presence.FOREIGN else Outcome.absent(**facts)

    def _end_the_agent(
        self, receipt: LegacySessionReceipt, every: Iterable[Identity], last: set[Identity]
    ) -> TerminationResult | None:
        """End all but *last*, and give those that write the log the time to write its end."""
        first = [who for who in every if who not in last]
        if not first:
            return None
        ending = self.context.processes.terminate_all(
            self._claim(receipt, first), self.context.patience
        )
        until = time.monotonic() + self.context.patience.linger_s
        for who in last:
            left_s = max(0.0, until - time.monotonic())
            self.context.processes.watch(who, timeout_s=left_s)
        return ending

    def _end_session(self, receipt: LegacySessionReceipt) -> Presence:
        if receipt.seen is None:
            return Presence.ABSENT
        return self.context.legacy_server.end(receipt.seen)

    def _claim(self, receipt: LegacySessionReceipt, known: Iterable[Identity]) -> OwnershipSelector:
        return OwnershipSelector(cookie=receipt.cookie, extra_roots=tuple(known))

    def _is_of_another_boot(self, receipt: LegacySessionReceipt) -> bool:
        """Tell whether the machine has been started anew since: nothing outlives that."""
        us = self.context.processes.identify(os.getpid())
        return bool(receipt.roots) and us is not None and us.boot_id != receipt.roots[0].boot_id

    def probe(self, receipt: LegacySessionReceipt) -> Presence:
        """Look for the session."""
        try:
            there = {session.name: session for session in self.context.legacy_server.sessions()}
        except TerminalError:
            return Presence.UNKNOWN
        found = there.get(receipt.session)
        if found is None:
            return Presence.ABSENT
        was, known = receipt.seen, (found.server_pid, found.number, found.created)
        is_same = was is not None and (was.server_pid, was.number, was.created) == known
        return Presence.OURS if is_same else Presence.FOREIGN
