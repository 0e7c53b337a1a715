"""
Provisions: what a step passes on to the agent, and to the steps after it.

A step may have one or both of two methods:

``provide(receipt) -> Provision``
    Called after ``do``, with the receipt that ``do`` returned. The result reaches the agent:
    variables for its environment, values for placeholders in its command, and the directory
    in which it runs, unless its spec names one. The library passes it on in the launch file,
    private and short-lived, and writes it nowhere else. A variable may therefore be a
    secret. A placeholder's value must not be one, since every user can read a command line.

``do_with(receipt, given) -> receipt``
    Called instead of ``do``, with the :class:`Provision` of all steps before: for a step
    that needs what they provide.

When it plans, a step of a deployment finds in its context the agent's id, which is
``ctx.saga_id``, and these values:

============= ========================================================================
``task_id``   the agent's task
``root_id``   the root's own id, for names that two roots must not share
``workspace`` the task's directory
``held``      the agent's private directory, for files that must not outlive it: a step
              that needs it creates it, and a step that empties it removes it
============= ========================================================================

A name that two steps provide, or that the spec or this library defines, is refused.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast, runtime_checkable

import attrs

from orchestrator_core.exceptions import InvalidInput
from orchestrator_core.saga import step_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from orchestrator_core.saga import Step

R = TypeVar("R")
R_contra = TypeVar("R_contra", contravariant=True)

_PLACEHOLDER = re.compile(r"\{([a-z][a-z0-9_]*)\}")


@attrs.frozen(kw_only=True)
class Provision:
    """What a step passes on."""

    environment: Mapping[str, str] = attrs.field(factory=dict, repr=False)  #: Perhaps secrets.
    placeholders: Mapping[str, str] = attrs.field(factory=dict)  #: By name, without the braces.
    cwd: str | None = None  #: The agent's directory, if its spec names none.

    def replaced(self, argument: str) -> str:
        """Return *argument* with the placeholders replaced, each once; other braces stay."""
        return _PLACEHOLDER.sub(lambda found: self.placeholders.get(found[1], found[0]), argument)


@runtime_checkable
class Provides(Protocol[R_contra]):
    """A step that passes something on."""

    def provide(self, receipt: R_contra) -> Provision:
        """Return what the step holds, for use by others."""
        ...


@runtime_checkable
class DoesWith(Protocol[R]):
    """A step that needs the provisions of the steps before it."""

    def do_with(self, receipt: R, given: Provision) -> R:
        """Take the resource, as ``do`` does, with all provisions so far."""
        ...


@attrs.define
class ProvisionCollector:
    """The provisions of one deployment's steps so far, merged."""

    reserved_variables: frozenset[str] = frozenset()  #: No step may set them.
    reserved_placeholders: frozenset[str] = frozenset()  #: These have a meaning already.
    merged: Provision = attrs.field(factory=Provision)

    def add(self, step: str, new: Provision) -> None:
        """
        Merge the provision of *step*.

        Raises:
            InvalidInput: A name is taken, or a value cannot be passed to a process.
        """
        old = self.merged
        if new.cwd is not None and old.cwd is not None:
            raise InvalidInput(f"step {step!r} provides a second working directory for the agent")
        variables = {*self.reserved_variables, *old.environment}
        placeholders = {*self.reserved_placeholders, *old.placeholders}
        _check_values(step, "variable", new.environment, variables)
        _check_values(step, "placeholder", new.placeholders, placeholders)
        self.merged = Provision(
            environment={**old.environment, **new.environment},
            placeholders={**old.placeholders, **new.placeholders},
            cwd=new.cwd or old.cwd,
        )


def _check_values(step: str, kind: str, values: Mapping[str, str], taken: set[str]) -> None:
    for name, value in values.items():
        if name in taken:
            raise InvalidInput(
                f"step {step!r} provides the {kind} {name}, which has a value already",
                hint="give the step another name, or remove one of the two steps",
            )
        # The value may be a secret, so an error must not show it.
        if not name or {"=", "\0"} & set(name) or "\0" in value:
            raise InvalidInput(
                f"step {step!r}: the {kind} {name!r:.80} cannot be passed to a process"
            )


def wrap_steps(steps: Iterable[Step[Any]], collector: ProvisionCollector) -> list[Step[Any]]:
    """Return *steps* for a deployment's saga, with their provisions added to *collector*."""
    return [cast("Step[Any]", _ProvisioningStep(step, collector)) for step in steps]


@attrs.frozen
class _ProvisioningStep:
    """A step whose ``do`` uses and adds to a collector. All else is the step's own."""

    step: Step[Any]
    collector: ProvisionCollector

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - any attribute of the step
        return getattr(self.step, name)

    def do(self, receipt: Any) -> Any:  # noqa: ANN401 - any registered receipt
        if isinstance(self.step, DoesWith):
            done = self.step.do_with(receipt, self.collector.merged)
        else:
            done = self.step.do(receipt)
        if isinstance(self.step, Provides):
            self.collector.add(step_name(self.step), self.step.provide(done))
        return done
