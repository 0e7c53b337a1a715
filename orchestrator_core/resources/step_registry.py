"""
Who knows a step: the processes that are to undo it, and have never seen it made.

An agent is unwound by its supervisor's heir, by a sweeper, by a command typed a week
later: each finds in the journal the *type* of a step's receipt, and needs an object that
can undo it. Those of this library it knows by itself. One of your own is declared, so that
anybody who opens the root can import it, in either of two ways:

``orchestrator.toml`` of the root names its module, which has its steps in a list::

    [steps]
    modules = ["acme.steps"]

    # acme/steps.py
    STEPS = [License(), Mount()]

or an installed package has an entry point in the group ``orchestrator_core.steps``, called
like the type of the receipts, that leads to the step or to its class::

    [project.entry-points."orchestrator_core.steps"]
    "acme.license" = "acme.steps:License"

A class is called without arguments: what a step needs to undo is in its receipt. It stands
in a module that can be imported anywhere, and not in the script that is run. Nothing
is imported before a journal names its type. One that nobody can import leaves its saga
STUCK, with all other steps undone, and is tried again by the next recovery.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from orchestrator_core.exceptions import InvalidInput, OrchestratorError, UnknownStep
from orchestrator_core.resources import STEP_TYPES
from orchestrator_core.saga import steps_by_type

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from orchestrator_core.saga import Step

GROUP = "orchestrator_core.steps"  #: The group of entry points.
LIST = "STEPS"  #: What a declared module calls the list of its steps.


class StepRegistry(Mapping[str, "Step[Any]"]):
    """
    The steps that can be undone here, by the type of their receipts.

    Those that are not at hand are looked for when a journal asks for them.
    """

    def __init__(
        self, builtin: Iterable[Step[Any]], *, modules: Callable[[], Iterable[str]] = tuple
    ) -> None:
        """Begin with the steps *builtin*; *modules* returns the names that are declared."""
        self._found = steps_by_type(builtin)
        self._modules = modules

    def __getitem__(self, kind: str) -> Step[Any]:
        """
        Return the step whose receipts are of a type.

        Raises:
            UnknownStep: None is known, or what was declared cannot be imported.
        """
        found = self._found.get(kind)
        if found is None:
            found = self._found[kind] = self._look_for(kind)
        return found

    def __iter__(self) -> Iterator[str]:
        """Go through those that are at hand by now."""
        return iter(self._found)

    def __len__(self) -> int:
        """Count those."""
        return len(self._found)

    def require_known(self, step: Step[Any]) -> None:
        """
        See that other processes can undo *step*.

        Raises:
            InvalidInput: They could not.
        """
        [kind] = steps_by_type([step])
        try:
            self[kind]
        except UnknownStep as error:
            raise InvalidInput(
                f"nobody but this process could undo it: {error}", hint=error.hint
            ) from error

    def _look_for(self, kind: str) -> Step[Any]:
        failures: list[str] = []
        for source in (_builtin, *map(_in_module, self._declared(failures)), _in_entry_points):
            try:
                found = source(kind)
            except Exception as error:  # noqa: BLE001 - others' code; and others may know the step
                failures.append(f"{type(error).__name__}: {error}")
            else:
                if found is not None:
                    return found
        tried = f" (and {'; '.join(failures)})" if failures else ""
        raise UnknownStep(
            f"step type {kind!r} is not known here: name its module under [steps] in "
            f"orchestrator.toml, or install what has it as an entry point of {GROUP!r}{tried}",
            hint="declare it, or install the package that has it; then recover",
        )

    def _declared(self, failures: list[str]) -> Iterable[str]:
        try:
            return tuple(self._modules())
        except OrchestratorError as error:  # The settings cannot be read.
            failures.append(str(error))
            return ()


def _builtin(kind: str) -> Step[Any] | None:
    if kind not in STEP_TYPES:
        return None
    home, name = STEP_TYPES[kind]
    return _step(getattr(importlib.import_module(home), name))


def _in_module(name: str) -> Callable[[str], Step[Any] | None]:
    def source(kind: str) -> Step[Any] | None:
        listed = getattr(importlib.import_module(name), LIST, ())
        return steps_by_type(map(_step, listed)).get(kind)

    return source


def _in_entry_points(kind: str) -> Step[Any] | None:
    from importlib.metadata import entry_points  # noqa: PLC0415 - seldom needed, and slow

    for point in entry_points(group=GROUP, name=kind):
        found = _step(point.load())
        if kind in steps_by_type([found]):
            return found
        raise UnknownStep(
            f"the entry point {kind!r} leads to {point.value}, whose receipts have another type"
        )
    return None


def _step(declared: Any) -> Step[Any]:  # noqa: ANN401 - whatever somebody has declared
    made: Step[Any] = declared() if isinstance(declared, type) else declared
    return made
