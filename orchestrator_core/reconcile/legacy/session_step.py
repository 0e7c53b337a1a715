"""
The step that ends a legacy agent's session and all processes that are known to be the agent's.

A legacy agent has no supervisor and no cookie. So everything below its panes, and in their
POSIX sessions, is listed by identity *before* anything is ended: a process that loses its
parent is still known. A process may still be missed, so the end is never called proven.

The agent ends first. Then the ``tee`` that writes its log ends by itself, after the last
line. The session ends last.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from orchestrator_core.exceptions import ReceiptRefused, Survivors, TerminalError
from orchestrator_core.model import ids
from orchestrator_core.reconcile.legacy.proof import roots_of, users_of, writers_of
from orchestrator_core.reconcile.legacy.server_protocol import LegacySession, legacy_server
from orchestrator_core.saga import Outcome, Presence, Unwind, receipt
from orchestrator_core.saga.verification import naming_id
from orchestrator_core.system.processes.protocol import Identity, OwnershipSelector

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from orchestrator_core.deployment.context import RootContext
    from orchestrator_core.saga import Context


@receipt("legacy_session")
@attrs.frozen(kw_only=True)
class LegacySessionReceipt:
    """The session of a legacy agent, and the proofs that it is the agent's."""

    session: str
    cookie: str  #: No process of the agent has it; the ownership selector requires one.
    seen: LegacySession | None = None
    roots: tuple[Identity, ...] = ()
    logs: tuple[str, ...] = ()  #: A writer of these that started with the agent is the agent's.
    born: float | None = None  #: The agent's start, in seconds since 1970.
    proofs: tuple[str, ...] = ()

    # The properties that a SessionReceipt has:

    @property
    def supervisor(self) -> Identity | None:
        """The process with which the session ends."""
        return self.roots[0] if self.roots else None

    @property
    def exit_file(self) -> None:
        """None: no supervisor writes an exit record."""
        return

    @property
    def selector(self) -> OwnershipSelector:
        """The agent's processes."""
        return self.selector_below(self.roots)

    def selector_below(self, roots: Iterable[Identity]) -> OwnershipSelector:
        """Return the selector of *roots* and of all processes below them."""
        return OwnershipSelector(cookie=self.cookie, extra_roots=tuple(roots))


@attrs.frozen
class EndLegacySession:
    """A step that only has an undo: the session existed before the saga."""

    context: RootContext

    receipt_type = LegacySessionReceipt

    def plan(self, ctx: Context) -> LegacySessionReceipt:
        """Return the receipt of a session of which only the name is known."""
        return LegacySessionReceipt(
            session=ids.session_name(ctx.saga_id),
            cookie=ids.process_cookie(self.context.root_id, ctx.saga_id),
        )

    def do(self, receipt: LegacySessionReceipt) -> LegacySessionReceipt:
        """Raise: a legacy agent is adopted, never deployed."""
        raise RuntimeError(f"a legacy session cannot be deployed: {receipt.session!r}")

    def verify(
        self, receipt: LegacySessionReceipt, saga_id: str, labels: Mapping[str, Any]
    ) -> LegacySessionReceipt:
        """
        Return the session, the logs and the living processes that are the agent's still.

        The session and the logs must be named after the agent. A process must be in that
        session, or have a log of the agent open, or be an ancestor of such a process.

        Raises:
            ReceiptRefused: The session has another name.
            CouldNotAsk, TerminalError: The sessions or the open files cannot be listed.
        """
        agent_id = naming_id(saga_id, labels)
        if agent_id not in receipt.session:
            raise ReceiptRefused(f"the session {receipt.session!r:.200} is not one of {agent_id!r}")
        root = self.context.layout.root
        logs = tuple(
            log
            for log in receipt.logs
            if agent_id in Path(log).name and Path(os.path.normpath(log)).is_relative_to(root)
        )
        seen = receipt.seen
        if seen is not None and seen.name != receipt.session:
            seen = None
        return attrs.evolve(
            receipt,
            cookie=ids.process_cookie(self.context.root_id, agent_id),
            seen=seen,
            logs=logs,
            roots=self._proved(receipt.roots, receipt.session, logs),
        )

    def _proved(
        self, roots: tuple[Identity, ...], session: str, logs: tuple[str, ...]
    ) -> tuple[Identity, ...]:
        """Return *roots* without the living processes that nothing relates to the agent now."""
        processes = self.context.processes
        alive = {root for root in roots if processes.is_alive(root)}
        if not alive:
            return roots
        listed = [each for each in legacy_server(self.context).sessions() if each.name == session]
        panes = {pid for each in listed for pid in each.panes}
        users = users_of(processes, map(Path, logs))
        related = {each for user in users for each in (user.process, *user.ancestors)}
        sids = {user.sid for user in users}
        return tuple(
            root
            for root in roots
            if root not in alive or root in related or root.pid in panes | sids
        )

    def undo(self, receipt: LegacySessionReceipt, _why: Unwind) -> Outcome:
        """End every process of the agent, then its session."""
        processes = self.context.processes
        if processes.includes_self(receipt.selector):
            raise Survivors("this process is part of what is to be ended", leaked=[receipt.session])
        writers = writers_of(processes, map(Path, receipt.logs), receipt.born)
        alive = filter(processes.is_alive, receipt.roots)
        roots = tuple(dict.fromkeys((*alive, *roots_of(writers))))
        owned = processes.owned_processes(receipt.selector_below(roots))
        forced = self._end_all_but(roots, owned, receipt)
        found = self._end_session(receipt)
        result = processes.terminate_all(receipt.selector_below(owned), self.context.patience)
        if result.survivors:
            names = [f"{each.pid} ({each.name})" for each in result.survivors]
            raise Survivors(f"still alive after SIGKILL: {', '.join(names)}", leaked=names)
        facts = {
            "session": found.value,
            "method": "scan",
            "proven": self._is_of_another_boot(receipt),
            "processes_ended": len(owned),
            "forced": result.forced or forced,
            "proofs": list(receipt.proofs),
        }
        if owned or found is Presence.OURS:
            return Outcome.undone(**facts)
        return Outcome.left(**facts) if found is Presence.FOREIGN else Outcome.absent(**facts)

    def _end_all_but(
        self, roots: Sequence[Identity], owned: Iterable[Identity], receipt: LegacySessionReceipt
    ) -> bool:
        """
        End the processes below *roots*; wait until the roots have written the end of the log.

        Return whether SIGKILL was needed.
        """
        processes, patience = self.context.processes, self.context.patience
        below = [each for each in owned if each not in roots]
        if not below:
            return False
        result = processes.terminate_all(receipt.selector_below(below), patience)
        until = time.monotonic() + patience.default_linger_s()
        for root in roots:
            processes.watch(root, timeout_s=max(0.0, until - time.monotonic()))
        return result.forced

    def _end_session(self, receipt: LegacySessionReceipt) -> Presence:
        if receipt.seen is None:
            return Presence.ABSENT
        return legacy_server(self.context).end(receipt.seen)

    def _is_of_another_boot(self, receipt: LegacySessionReceipt) -> bool:
        """Return whether the machine was restarted since: no process outlives that."""
        own = self.context.processes.identify(os.getpid())
        return bool(receipt.roots) and own is not None and own.boot_id != receipt.roots[0].boot_id

    def probe(self, receipt: LegacySessionReceipt) -> Presence:
        """Return whether the session exists."""
        try:
            sessions = legacy_server(self.context).sessions()
        except TerminalError:
            return Presence.UNKNOWN
        found = next((each for each in sessions if each.name == receipt.session), None)
        if found is None:
            return Presence.ABSENT
        is_same = receipt.seen is not None and found.identity == receipt.seen.identity
        return Presence.OURS if is_same else Presence.FOREIGN
