"""
What a sweep can find: each kind, with what it means and what becomes of it, in one table.

A finding says by what it is known to be ours. It is reaped on two proofs that do
not lean on each other; on one it is only told. The documentation is drawn from
:data:`FINDINGS`.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any

import attrs
import msgspec

from orchestrator_core.system.deprecation import renamed, warn_renamed

if TYPE_CHECKING:
    from orchestrator_core.model.outcome import EndReport

_PROOFS = 2  #: So many make a finding ours beyond doubt.


class FindingKind(enum.Enum):
    """What something that a sweep has found is."""

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
    """What there is to know of one kind of finding."""

    meaning: str
    reap_action: str  #: What reaping does; empty if it is never reaped.
    remedy: str  #: What a person is to do about it.


FINDINGS: dict[FindingKind, FindingInfo] = {
    FindingKind.ENDED: FindingInfo(
        meaning="An agent has ended, as its supervisor has witnessed, and was not unwound.",
        reap_action="unwinds it, with the end that was witnessed",
        remedy="Reap it. If it comes often: do the supervisors' unwinders start? "
        "Run one by hand: `orchestrator-core recover AGENT`.",
    ),
    FindingKind.LOST: FindingInfo(
        meaning="An agent is gone without a witness: its supervisor was killed, its tmux server, "
        "or the machine.",
        reap_action="ends what of it lives on, and unwinds it with the status `error`",
        remedy="Reap it. Its log, up to the last byte it wrote, is in the archive then.",
    ),
    FindingKind.OVERDUE: FindingInfo(
        meaning="An agent lives past its deadline: its supervisor, which keeps it, is stopped or "
        "hangs.",
        reap_action="ends it, with the status `terminated`",
        remedy="Reap it, unless you want to see first what it hangs at.",
    ),
    FindingKind.SILENT: FindingInfo(
        meaning="An agent lives, and has neither written to its log nor reported for longer than "
        "its limit.",
        reap_action="",
        remedy="Look at it: `orchestrator-core show AGENT`. It may be thinking. End it with "
        "`orchestrator-core kill AGENT`, or give such agents a longer limit: `silent_after_s`.",
    ),
    FindingKind.ABANDONED: FindingInfo(
        meaning="A deployment or an unwinding was left half-way: who was at it has died.",
        reap_action="finishes the unwinding; a deployment that never committed is undone",
        remedy="Reap it, or open the root with any command: recovery does the same.",
    ),
    FindingKind.STUCK: FindingInfo(
        meaning="An agent could not be unwound: a step's undo failed, and is to be tried again.",
        reap_action="tries again, now",
        remedy="Mend what the finding names, then reap it. What can never be undone is given "
        "up by hand: `orchestrator-core recover AGENT --abandon STEP --reason TEXT`.",
    ),
    FindingKind.ORPHAN_SESSION: FindingInfo(
        meaning="A tmux session carries our mark, and no saga accounts for it.",
        reap_action="a saga adopts all that its agent's id leads to, and is unwound",
        remedy="Reap it. To see first what runs there: `tmux -S SOCKET attach -t =SESSION`.",
    ),
    FindingKind.ORPHAN_PROCESS: FindingInfo(
        meaning="A process carries our cookie in its environment, and no saga accounts for it: "
        "it outlived its agent.",
        reap_action="a saga adopts all that its agent's id leads to, and is unwound",
        remedy="Reap it. One that cannot be ended waits for the kernel: look at its state.",
    ),
    FindingKind.ORPHAN_FILE: FindingInfo(
        meaning="A file, a run directory or a cgroup is named after an agent, and no saga accounts "
        "for it.",
        reap_action="a saga adopts all that its agent's id leads to, and is unwound: what is worth "
        "keeping goes to the archive, under a name that overwrites nothing",
        remedy="Reap it. One that is not reaped, for want of a second proof, is somebody's own: "
        "move it out of the task's directory.",
    ),
    FindingKind.ORPHAN_RECORD: FindingInfo(
        meaning="A registry holds a living agent that never had a saga, or whose journal is gone.",
        reap_action="a saga adopts all that its agent's id leads to, and is unwound: the record "
        "gets the status `error`",
        remedy="Was a journal removed by hand, or a record added? Put it right, or reap it. One "
        "that is not reaped, for want of a second proof, is to be ended in the file, by hand.",
    ),
    FindingKind.MISMATCH: FindingInfo(
        meaning="A registry and a journal tell different stories: an agent lives, and is not "
        "entered as living; or it has ended, and is.",
        reap_action="the journal counts: the registry is made to say what it says",
        remedy="Reap it. Who edits the registries by hand?",
    ),
    FindingKind.DAMAGED: FindingInfo(
        meaning="A journal or a registry cannot be used, or one that could not was kept aside.",
        reap_action="keeps it aside, and writes it anew from all else that is known; what was kept "
        "aside stays",
        remedy="Look at the file that was kept aside, and remove it when it is of no more use.",
    ),
}


@attrs.frozen(kw_only=True)
class Finding:
    """
    One thing that a sweep has found.

    ``proofs`` are what it is known to be ours by, each independent of the others.
    """

    kind: FindingKind
    agent_id: str | None = None
    task_id: str | None = None
    saga_id: str | None = None  #: The open saga that it is about, if one is.
    is_old: bool = False  #: It is about an agent that the old system has recorded.
    subject: str  #: The thing: "session agent_x", "process 4711 (node)", a path.
    what: str  #: What was found, in one line.
    proofs: tuple[str, ...] = ()
    action: str = ""  #: What reaping it does; empty if it is left alone, whatever is proved.

    @property
    def reapable(self) -> bool:
        """Whether a sweep that reaps would end it."""
        return bool(self.action) and len(self.proofs) >= _PROOFS

    @property
    def key(self) -> tuple[str, str]:
        """What makes it the same finding at the next look."""
        return self.subject, self.agent_id or ""

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-safe values."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return {**plain, "reapable": self.reapable}


@attrs.frozen(kw_only=True)
class ReapResult:
    """What became of a finding that was to be reaped."""

    finding: Finding
    success: bool  #: Nothing of it is left.
    message: str = ""  #: How it went, in one line; for a failure, why.
    end: EndReport | None = None  #: Of the agent, if one was unwound.

    @property
    def said(self) -> str:
        """The old name of :attr:`message`."""
        warn_renamed("ReapResult.said", "ReapResult.message")
        return self.message

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-safe values."""
        return {
            "finding": self.finding.to_dict(),
            "success": self.success,
            "said": self.message,
            "end": None if self.end is None else self.end.to_dict(),
        }


@attrs.frozen(kw_only=True)
class SweepReport:
    """What one sweep has found, what it could not find out, and what it has reaped."""

    findings: tuple[Finding, ...] = ()
    unknown: tuple[str, ...] = ()  #: What could not be asked, and why. It was left alone.
    reaped: tuple[ReapResult, ...] = ()
    dry_run: bool = True
    duration_ms: float = 0.0
    alive: tuple[str, ...] = ()  #: The agents that are alive, and as they should be.
    busy: tuple[str, ...] = ()  #: The agents that somebody is deploying or ending just now.

    @property
    def left(self) -> tuple[Finding, ...]:
        """What is still there: all that was found, but for what was reaped."""
        gone = {reaped.finding.key for reaped in self.reaped if reaped.success}
        return tuple(finding for finding in self.findings if finding.key not in gone)

    @property
    def clean(self) -> bool:
        """Whether all could be asked, and nothing is left."""
        return not self.left and not self.unknown

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-safe values."""
        return {
            "clean": self.clean,
            "dry_run": self.dry_run,
            "findings": [finding.to_dict() for finding in self.findings],
            "reaped": [reaped.to_dict() for reaped in self.reaped],
            "left": [finding.to_dict() for finding in self.left],
            "unknown": list(self.unknown),
            "alive": list(self.alive),
            "busy": list(self.busy),
            "duration_ms": self.duration_ms,
        }


__getattr__ = renamed(__name__, {"Reaped": "ReapResult"})
