"""
How a step hands on what it holds: to the agent, and to the steps after it.

A step says so with two methods, neither of which it must have:

``provide(receipt) -> Provision``
    Called when the step has been done, with the receipt that ``do`` returned. What it
    returns reaches the agent: variables for its environment, values for placeholders in
    its command, and the directory it runs in, unless its spec names one. It is passed on
    in the launch file, private and short-lived, and is written nowhere else: a secret may
    be a variable. It must not be a placeholder's value, since a command line is public.

``do_with(receipt, given) -> receipt``
    Called in place of ``do``, with the :class:`Provision` of all steps before it: for a
    step that cannot act without what they hold.

When it plans, a step of a deployment finds in its context, beside the agent's id, which is
``ctx.saga_id``, these values:

============= ========================================================================
``task_id``   the agent's task
``root_id``   the root's own id, for names that two roots must not share
``workspace`` the task's directory
``held``      a directory of the agent's own, for what is to be gone with it: whoever
              needs it makes it, and whoever leaves it empty removes it
============= ========================================================================

A name that two provide, or that the spec or this library gives a meaning, is reserved_variables.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

import attrs

from orchestrator_core.exceptions import InvalidInput
from orchestrator_core.saga import step_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from orchestrator_core.saga import Context, Outcome, Presence, Step, Unwind

R = TypeVar("R")
R_contra = TypeVar("R_contra", contravariant=True)

_PLACEHOLDER = re.compile(r"\{([a-z][a-z0-9_]*)\}")


@attrs.frozen(kw_only=True)
class Provision:
    """What a step hands on."""

    environment: Mapping[str, str] = attrs.field(factory=dict, repr=False)  #: Secrets, perhaps.
    placeholders: Mapping[str, str] = attrs.field(factory=dict)  #: By name, without the braces.
    cwd: str | None = None  #: Where the agent is to run, if its spec does not say.

    def replaced(self, argument: str) -> str:
        """Return *argument* with the placeholders replaced, each once; other braces stay."""
        return _PLACEHOLDER.sub(lambda found: self.placeholders.get(found[1], found[0]), argument)


@runtime_checkable
class Provides(Protocol[R_contra]):
    """A step that hands something on."""

    def provide(self, receipt: R_contra) -> Provision:
        """Return what the step holds, for others to use."""
        ...


@runtime_checkable
class DoesWith(Protocol[R]):
    """A step that needs what the steps before it hold."""

    def do_with(self, receipt: R, given: Provision) -> R:
        """Take the resource, as ``do`` does, with what has been handed on so far."""
        ...


@attrs.define
class ProvisionCollector:
    """What has been handed on so far, in one deployment."""

    reserved_variables: frozenset[str] = frozenset()  #: Variables that are not a step's to set.
    reserved_placeholders: frozenset[str] = (
        frozenset()
    )  #: Placeholders that mean something already.
    merged: Provision = attrs.field(factory=Provision)

    def add(self, step: str, more: Provision) -> None:
        """
        Take on what *step* hands on.

        Raises:
            InvalidInput: A name is taken, or a value cannot be passed to a process.
        """
        before = self.merged
        _refuse(step, "variable", more.environment, {*self.reserved_variables, *before.environment})
        _refuse(
            step,
            "placeholder",
            more.placeholders,
            {*self.reserved_placeholders, *before.placeholders},
        )
        if more.cwd is not None and before.cwd is not None:
            raise InvalidInput(f"step {step!r} is not the only one to say where the agent runs")
        self.merged = Provision(
            environment={**before.environment, **more.environment},
            placeholders={**before.placeholders, **more.placeholders},
            cwd=more.cwd or before.cwd,
        )


def _refuse(step: str, kind: str, values: Mapping[str, str], taken: set[str]) -> None:
    for name, value in values.items():
        if name in taken:
            raise InvalidInput(
                f"step {step!r} provides the {kind} {name}, which has a value already",
                hint="give the step another name, or leave one of the two out",
            )
        # The value is a secret, perhaps: an error never shows it.
        if not name or {"=", "\0"} & set(name) or "\0" in value:
            raise InvalidInput(f"step {step!r}: the {kind} {name!r:.80} cannot be passed on")


def wrap_steps(steps: Iterable[Step[Any]], provided: ProvisionCollector) -> list[Step[Any]]:
    """Return *steps* as a deployment takes them: what they hand on is added to *provided*."""
    return [_ProvisioningStep(step, provided) for step in steps]


@attrs.frozen
class _ProvisioningStep:
    """A step, with what it hands on passed to a deployment. The engine sees a step like any."""

    step: Step[Any]
    provided: ProvisionCollector

    @property
    def name(self) -> str:
        """The step's own name."""
        return step_name(self.step)

    @property
    def receipt_type(self) -> type[Any]:
        """The step's own."""
        return self.step.receipt_type

    def plan(self, ctx: Context) -> Any:  # noqa: ANN401 - any registered receipt
        """Let the step plan."""
        return self.step.plan(ctx)

    def do(self, receipt: Any) -> Any:  # noqa: ANN401 - as above
        """Let the step be done, with what it is given; take on what it provides."""
        if isinstance(self.step, DoesWith):
            held = self.step.do_with(receipt, self.provided.merged)
        else:
            held = self.step.do(receipt)
        if isinstance(self.step, Provides):
            self.provided.add(self.name, self.step.provide(held))
        return held

    def undo(self, receipt: Any, why: Unwind) -> Outcome:  # noqa: ANN401 - as above
        """Let the step be undone."""
        return self.step.undo(receipt, why)

    def probe(self, receipt: Any) -> Presence:  # noqa: ANN401 - as above
        """Let the step look."""
        return self.step.probe(receipt)
