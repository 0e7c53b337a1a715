"""
The unit of a saga: a step, which knows how to take a resource and give it back.

A step is four small methods around one *receipt*, a JSON-safe value that says
what the step holds. The engine journals the planned receipt **before** it acts,
so whatever instant a crash chooses, there is a record that leads to the resource.

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

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator_core.system.presence import Presence

R = TypeVar("R")


class Reason(enum.Enum):
    """Why a saga unwinds. It decides what undoing means."""

    ROLLBACK = "rollback"  #: It never came to be; nothing remains.
    TERMINAL = "terminal"  #: It lived and has ended; what is worth keeping is kept.
    RECOVERY = "recovery"  #: Its owner died while it ran; as ROLLBACK, by another hand.


@attrs.frozen
class Unwind:
    """A reason to unwind, with what the steps need to know about it."""

    reason: Reason
    message: str = ""  #: One line for people.
    detail: dict[str, Any] = attrs.field(factory=dict)  #: JSON-safe; the steps' own business.

    if not TYPE_CHECKING:
        __getattr__ = renamed_attributes("Unwind", {"leaves_nothing": "removes_everything"})

    @property
    def removes_everything(self) -> bool:
        """Whether all traces go: the saga never came to be."""
        return self.reason is not Reason.TERMINAL

    @classmethod
    def rollback(cls, message: str = "", **detail: Any) -> Unwind:  # noqa: ANN401 - JSON values
        """Undo a saga that did not come to be."""
        return cls(Reason.ROLLBACK, message, detail)

    @classmethod
    def terminal(cls, message: str = "", **detail: Any) -> Unwind:  # noqa: ANN401 - JSON values
        """Undo a saga whose life has ended."""
        return cls(Reason.TERMINAL, message, detail)

    @classmethod
    def recovery(cls, message: str = "", **detail: Any) -> Unwind:  # noqa: ANN401 - JSON values
        """Undo a saga whose owner died before it committed."""
        return cls(Reason.RECOVERY, message, detail)


class Result(enum.Enum):
    """What an undo came to, when it did not fail."""

    UNDONE = "undone"  #: It was there and is gone.
    ABSENT = "absent"  #: There was nothing to undo.
    KEPT_FOREIGN = "left"  #: Something is there that is not ours; it was left alone.
    LEFT = "left"  # noqa: PIE796 - the old name of KEPT_FOREIGN, for one release
    ABANDONED = "abandoned"  #: An operator gave the step up; what it held may remain.


@attrs.frozen
class Outcome:
    """The result of one undo, with JSON-safe facts for the report."""

    result: Result
    detail: dict[str, Any] = attrs.field(factory=dict)

    @classmethod
    def undone(cls, **detail: Any) -> Outcome:  # noqa: ANN401 - JSON values
        """It was there and is gone."""
        return cls(Result.UNDONE, detail)

    @classmethod
    def absent(cls, **detail: Any) -> Outcome:  # noqa: ANN401 - JSON values
        """There was nothing to undo."""
        return cls(Result.ABSENT, detail)

    @classmethod
    def left(cls, **detail: Any) -> Outcome:  # noqa: ANN401 - JSON values
        """Something is there that is not ours."""
        return cls(Result.KEPT_FOREIGN, detail)


@attrs.frozen
class Context:
    """What a step may know when it plans: names and values, no handles."""

    saga_id: str
    values: Mapping[str, Any] = attrs.field(factory=dict)  #: What the caller passed to begin.
    receipts: Mapping[str, Any] = attrs.field(factory=dict)  #: Planned so far, by step name.


class Step(Protocol[R]):
    """
    Take one resource, and give it back.

    Attributes:
        receipt_type: The class, registered with :func:`receipt`, of what ``plan`` returns.
    """

    @property
    def receipt_type(self) -> type[R]:
        """The registered class of this step's receipts; its type names the step."""
        ...

    def plan(self, ctx: Context) -> R:
        """
        Fix every name, path and token of the resource. Touch nothing.

        Refuse here what can be refused: nothing has been taken yet.
        """
        ...

    def do(self, receipt: R) -> R:
        """
        Take the resource.

        Return the receipt, enriched with what is only known now (a pid, an inode).
        """
        ...

    def undo(self, receipt: R, why: Unwind) -> Outcome:
        """
        Give the resource back, whether ``do`` never ran, half ran, or ran.

        Idempotent. *receipt* may be the planned one: undo takes all that its
        names lead to, and only what is proved ours.

        Raises:
            CouldNotAsk: The state is unknown, and was left so.
            Exception: It failed; the engine goes on with the other steps, and retries.
        """
        ...

    def probe(self, receipt: R) -> Presence:
        """Tell whether the resource is there, and ours."""
        ...
