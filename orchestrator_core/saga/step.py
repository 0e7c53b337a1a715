"""
The unit of a saga: a step, which can take a resource and give it back.

A step is four small methods around one *receipt*, a JSON-safe value that describes what the
step holds. The engine journals the planned receipt **before** the step acts. So after a crash
at any instant, a record leads to the resource.

::

    @receipt("example.worktree", version=1)
    class Worktree:
        path: str

    class AddWorktree:
        receipt_type = Worktree

        def plan(self, ctx): return Worktree(path=f"/work/{ctx.saga_id}")
        def do(self, r): git("worktree", "add", r.path); return r
        def undo(self, r, why): git("worktree", "remove", r.path); return Outcome.undone()
        def probe(self, r): return Presence.OURS if exists(r.path) else Presence.ABSENT
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import attrs

from orchestrator_core.system.deprecation import renamed_attributes
from orchestrator_core.system.surrogates import replace_surrogates

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator_core.system.presence import Presence

R = TypeVar("R")


class Reason(enum.Enum):
    """Why a saga unwinds. The reason decides what an undo removes."""

    ROLLBACK = "rollback"  #: The saga did not commit: an undo removes everything.
    TERMINAL = "terminal"  #: The saga committed and its life ended: an undo keeps results.
    RECOVERY = "recovery"  #: The owner died before the commit: as ROLLBACK.


@renamed_attributes(leaves_nothing="removes_everything")
@attrs.frozen
class Unwind:
    """A reason to unwind, with the facts that the steps need."""

    reason: Reason
    message: str = attrs.field(default="", converter=replace_surrogates)  #: One line for the user.
    detail: dict[str, Any] = attrs.field(factory=dict)  #: JSON-safe; only the steps read it.

    @property
    def removes_everything(self) -> bool:
        """Whether an undo removes all traces, because the saga did not commit."""
        return self.reason is not Reason.TERMINAL

    @classmethod
    def rollback(cls, message: str = "", **detail: Any) -> Unwind:  # noqa: ANN401 - JSON values
        """Return the reason to undo a saga that failed before its commit."""
        return cls(Reason.ROLLBACK, message, detail)

    @classmethod
    def terminal(cls, message: str = "", **detail: Any) -> Unwind:  # noqa: ANN401 - JSON values
        """Return the reason to undo a saga whose life has ended."""
        return cls(Reason.TERMINAL, message, detail)

    @classmethod
    def recovery(cls, message: str = "", **detail: Any) -> Unwind:  # noqa: ANN401 - JSON values
        """Return the reason to undo a saga whose owner died before the commit."""
        return cls(Reason.RECOVERY, message, detail)


class Result(enum.Enum):
    """The result of an undo that did not fail."""

    UNDONE = "undone"  #: The resource was there and is gone.
    ABSENT = "absent"  #: The resource was not there.
    KEPT_FOREIGN = "left"  #: A resource of another owner is there; the undo did not touch it.
    LEFT = "left"  # noqa: PIE796 - the old name of KEPT_FOREIGN, for one release
    ABANDONED = "abandoned"  #: An operator gave up the step; the resource may remain.


@attrs.frozen
class Outcome:
    """The result of one undo, with JSON-safe facts for the report."""

    result: Result
    detail: dict[str, Any] = attrs.field(factory=dict)

    @classmethod
    def undone(cls, **detail: Any) -> Outcome:  # noqa: ANN401 - JSON values
        """Return that the resource was there and is gone."""
        return cls(Result.UNDONE, detail)

    @classmethod
    def absent(cls, **detail: Any) -> Outcome:  # noqa: ANN401 - JSON values
        """Return that the resource was not there."""
        return cls(Result.ABSENT, detail)

    @classmethod
    def left(cls, **detail: Any) -> Outcome:  # noqa: ANN401 - JSON values
        """Return that a resource of another owner is there, and was not touched."""
        return cls(Result.KEPT_FOREIGN, detail)


@attrs.frozen
class Context:
    """The input of a plan: names and values, no handles."""

    saga_id: str
    values: Mapping[str, Any] = attrs.field(factory=dict)  #: As passed to begin.
    receipts: Mapping[str, Any] = attrs.field(factory=dict)  #: Of the earlier steps, by name.


class Step(Protocol[R]):
    """
    A resource that can be taken and given back.

    Attributes:
        receipt_type: The class of the receipts, registered with :func:`receipt`.
    """

    @property
    def receipt_type(self) -> type[R]:
        """The registered class of the receipts; its type name is the default name of the step."""
        ...

    def plan(self, ctx: Context) -> R:
        """
        Fix every name, path and token of the resource, without any side effect.

        An error here is the cheapest: no resource has been taken yet.
        """
        ...

    def do(self, receipt: R) -> R:
        """Take the resource; return the receipt, with facts that are new now (a pid, an inode)."""
        ...

    def undo(self, receipt: R, why: Unwind) -> Outcome:
        """
        Give the resource back, whether ``do`` never ran, ran in part, or ran.

        Idempotent. *receipt* may be the planned one, so an undo removes everything that its
        names lead to, and only with proof that the resource belongs to the saga.

        Raises:
            CouldNotAsk: The state of the resource is unknown; nothing was changed.
            Exception: The undo failed. The engine goes on with the other steps, and retries.
        """
        ...

    def probe(self, receipt: R) -> Presence:
        """Return whether the resource is there, and belongs to the saga."""
        ...
