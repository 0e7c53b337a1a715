"""
The values of a sweep: its findings, their kinds in one table, and its report.

A finding lists the proofs that its subject belongs to this root. A sweep reaps a finding
that has two independent proofs, and only reports one that has fewer. The documentation is
drawn from :data:`FINDINGS`.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any

import attrs
import msgspec

from orchestrator_core.system.deprecation import renamed_attributes

if TYPE_CHECKING:
    from orchestrator_core.model.outcome import EndReport

_PROOFS_NEEDED = 2


class FindingKind(enum.Enum):
    """The kind of a finding."""

    ENDED = "ended"
    LOST = "lost"
    OVERDUE = "overdue"
    SILENT = "silent"
    ABANDONED = "ownerless"
    STUCK = "stuck"
    ORPHAN_SESSION = "stray_session"
    ORPHAN_PROCESS = "stray_process"
    ORPHAN_FILE = "stray_file"
    ORPHAN_RECORD = "stray_record"
    MISMATCH = "disagreement"
    DAMAGED = "damaged"

    # The old names, for one release.
    OWNERLESS = ABANDONED
    STRAY_SESSION = ORPHAN_SESSION
    STRAY_PROCESS = ORPHAN_PROCESS
    STRAY_FILE = ORPHAN_FILE
    STRAY_RECORD = ORPHAN_RECORD
    DISAGREEMENT = MISMATCH


@attrs.frozen(kw_only=True)
class FindingInfo:
    """One row of the table of kinds."""

    meaning: str
    reap_action: str  #: What reaping does; empty if the kind is never reaped.
    remedy: str  #: What a person does about the finding.
    recheck: bool = False  #: A second snapshot must confirm it.


FINDINGS: dict[FindingKind, FindingInfo] = {
    FindingKind.ENDED: FindingInfo(
        meaning="An agent has ended, as its supervisor recorded, and was not unwound.",
        reap_action="unwinds the agent, with the recorded end",
        remedy="Reap it. If it comes often: do the supervisors' unwinders start? "
        "Run one by hand: `orchestrator-core recover AGENT`.",
    ),
    FindingKind.LOST: FindingInfo(
        meaning="An agent is gone without an exit record: its supervisor was killed, its tmux "
        "server, or the machine.",
        reap_action="ends the agent's remaining processes, and unwinds it with the status `error`",
        remedy="Reap it. The archive then has the agent's log up to the last byte.",
        recheck=True,
    ),
    FindingKind.OVERDUE: FindingInfo(
        meaning="An agent is alive past its deadline: its supervisor is stopped or hangs.",
        reap_action="ends the agent, with the status `terminated`",
        remedy="Reap it, unless you want to see first where the supervisor hangs.",
    ),
    FindingKind.SILENT: FindingInfo(
        meaning="A live agent has neither written to its log nor reported for longer than its "
        "limit.",
        reap_action="",
        remedy="Inspect it: `orchestrator-core show AGENT`. It may be thinking. End it with "
        "`orchestrator-core kill AGENT`, or give such agents a longer limit: `silent_after_s`.",
    ),
    FindingKind.ABANDONED: FindingInfo(
        meaning="A deployment or an unwinding was left half-way: its owner has died.",
        reap_action="finishes the unwinding; a deployment that never committed is undone",
        remedy="Reap it, or open the root with any command: recovery does the same.",
    ),
    FindingKind.STUCK: FindingInfo(
        meaning="An agent could not be unwound: a step's undo failed.",
        reap_action="tries the undo again, now",
        remedy="Fix what the finding names, then reap it. Give up a step that can never be "
        "undone: `orchestrator-core recover AGENT --abandon STEP --reason TEXT`.",
    ),
    FindingKind.ORPHAN_SESSION: FindingInfo(
        meaning="A tmux session carries this root's mark, and no saga accounts for it.",
        reap_action="a saga adopts all that the agent's id leads to, and is unwound",
        remedy="Reap it. To see first what runs there: `tmux -S SOCKET attach -t =SESSION`.",
        recheck=True,
    ),
    FindingKind.ORPHAN_PROCESS: FindingInfo(
        meaning="A process has this root's cookie in its environment, and no saga accounts for "
        "it: the process outlived its agent. Or it has the cookie of another root of this user, "
        "which was removed.",
        reap_action="a saga adopts all that the agent's id leads to, and is unwound",
        remedy="Reap it. A process that cannot be ended waits for the kernel: check its state.",
        recheck=True,
    ),
    FindingKind.ORPHAN_FILE: FindingInfo(
        meaning="A file, a run directory or a cgroup is named after an agent, and no saga accounts "
        "for it.",
        reap_action="a saga adopts all that the agent's id leads to, and is unwound: what is worth "
        "keeping goes to the archive, under a name that overwrites nothing",
        remedy="Reap it. A file that lacks a second proof is not reaped and may be a person's: "
        "move it out of the task's directory.",
        recheck=True,
    ),
    FindingKind.ORPHAN_RECORD: FindingInfo(
        meaning="A registry shows a live agent that never had a saga, or whose journal is gone.",
        reap_action="a saga adopts all that the agent's id leads to, and is unwound: the record "
        "gets the status `error`",
        remedy="Was a journal removed by hand, or a record added? Correct that, or reap it. Edit "
        "the status of a record that lacks a second proof by hand.",
        recheck=True,
    ),
    FindingKind.MISMATCH: FindingInfo(
        meaning="A registry contradicts a journal: an agent is alive and not registered as alive, "
        "or has ended and is registered as alive. Or one of the two was removed while the agent "
        "lives.",
        reap_action="rewrites the registry from the journals, or the journal from the registry",
        remedy="Reap it. Does a person or a program edit the registries?",
        recheck=True,
    ),
    FindingKind.DAMAGED: FindingInfo(
        meaning="A journal or a registry cannot be used, or a damaged one was kept aside.",
        reap_action="keeps the damaged file aside, and writes it anew from all other sources",
        remedy="Read the file that was kept aside, and remove it when it is no longer needed.",
    ),
}


_KIND_ACTION: Any = attrs.Factory(lambda self: FINDINGS[self.kind].reap_action, takes_self=True)


@attrs.frozen(kw_only=True)
class Finding:
    """
    One thing that a sweep has found.

    ``proofs`` show that the subject belongs to this root. Each is independent of the others.
    """

    kind: FindingKind
    agent_id: str | None = None
    task_id: str | None = None
    saga_id: str | None = None  #: The open saga that the finding is about, if any.
    is_old: bool = False  #: The finding is about a legacy agent.
    removed_cookie: str | None = None  #: The mark of an agent whose root, another one, was removed.
    subject: str  #: The thing: "session agent_x", "process 4711 (node)", a path.
    what: str  #: What was found, in one line.
    proofs: tuple[str, ...] = ()
    action: str = _KIND_ACTION  #: What reaping does. Empty: never reaped, whatever the proofs.

    @property
    def reapable(self) -> bool:
        """Whether a sweep that reaps ends it."""
        return bool(self.action) and len(self.proofs) >= _PROOFS_NEEDED

    @property
    def key(self) -> tuple[str, str]:
        """The identity of the finding: equal in each snapshot that shows the same thing."""
        return self.subject, self.agent_id or ""

    def to_dict(self) -> dict[str, Any]:
        """Return the finding as JSON-safe values."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return {**plain, "reapable": self.reapable}


@attrs.frozen
class FindingSubject:
    """The thing that a finding is about, and the agent that it belongs to."""

    agent_id: str | None
    task_id: str | None
    subject: str  #: How a finding names the thing.

    def finding(
        self,
        kind: FindingKind,
        what: str,
        *proofs: str,
        saga_id: str | None = None,
        is_old: bool = False,
        reapable: bool = True,
    ) -> Finding:
        """Return a finding about the thing. Without *reapable*, no sweep ever reaps it."""
        return Finding(
            kind=kind,
            agent_id=self.agent_id,
            task_id=self.task_id,
            subject=self.subject,
            what=what,
            proofs=proofs,
            saga_id=saga_id,
            is_old=is_old,
            action=FINDINGS[kind].reap_action if reapable else "",
        )


@renamed_attributes(said="message")
@attrs.frozen(kw_only=True)
class ReapResult:
    """The result of reaping one finding."""

    finding: Finding
    success: bool  #: Nothing of the finding is left.
    message: str = ""  #: The result in one line; for a failure, its cause.
    end: EndReport | None = None  #: Of the agent, if an agent was unwound.

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON-safe values."""
        return {
            "finding": self.finding.to_dict(),
            "success": self.success,
            "said": self.message,
            "end": None if self.end is None else self.end.to_dict(),
        }


@attrs.frozen(kw_only=True)
class SweepReport:
    """What one sweep has found, could not find out, and has reaped."""

    findings: tuple[Finding, ...] = ()
    unknown: tuple[str, ...] = ()  #: Sources that could not be read, and why. Nothing was touched.
    reaped: tuple[ReapResult, ...] = ()
    dry_run: bool = True
    duration_ms: float = 0.0
    alive: tuple[str, ...] = ()  #: The agents that are alive, as their journals say.
    busy: tuple[str, ...] = ()  #: The agents that a live owner is deploying or ending.

    @property
    def left(self) -> tuple[Finding, ...]:
        """The findings that were not reaped."""
        gone = {result.finding.key for result in self.reaped if result.success}
        return tuple(finding for finding in self.findings if finding.key not in gone)

    @property
    def clean(self) -> bool:
        """Whether all sources could be read, and no finding is left."""
        return not self.left and not self.unknown

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON-safe values."""
        return {
            "clean": self.clean,
            "dry_run": self.dry_run,
            "findings": [finding.to_dict() for finding in self.findings],
            "reaped": [result.to_dict() for result in self.reaped],
            "left": [finding.to_dict() for finding in self.left],
            "unknown": list(self.unknown),
            "alive": list(self.alive),
            "busy": list(self.busy),
            "duration_ms": self.duration_ms,
        }
