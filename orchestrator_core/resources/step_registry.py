"""
The step registry: how a process finds a step that it must undo, and did not create.

The processes that unwind an agent are its supervisor's unwinder, a sweeper, or a command
that a user runs a week later. Each finds in the journal the *type* of a step's receipt, and
needs an object that can undo it. The registry has the steps of this library. A user declares
other steps in one of two ways, so that every process that opens the root can import them.

``orchestrator.toml``, the user's own or an approved one of the root, names a module with a list
of steps, and its directory if it is not an installed package::

    [steps]
    modules = ["acme.steps"]
    path = ["/srv/orchestrators"]

    # acme/steps.py
    STEPS = [License(), Mount()]

Or an installed package has an entry point in the group ``orchestrator_core.steps``. Its name
is the type of the receipts, and its value the step or the step's class::

    [project.entry-points."orchestrator_core.steps"]
    "acme.license" = "acme.steps:License"

A class is called without arguments, since the receipt contains all that an undo needs. The
module must be importable in every process, so it cannot be the script that runs. The unwinder
imports nothing from the script's directory, the working directory or ``PYTHONPATH``, where
agents may write. A module is imported only when a journal names its type. If no process can
import a type, the saga is STUCK with all other steps undone, and the next recovery tries again.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from orchestrator_core.exceptions import InvalidInput, OrchestratorError, UnknownStep
from orchestrator_core.resources import STEP_TYPES
from orchestrator_core.saga import Step, steps_by_type
from orchestrator_core.system import import_path

GROUP = "orchestrator_core.steps"  #: The group of entry points.
LIST = "STEPS"  #: The name of the list in a declared module.

#: The names of modules, and the directories to import them from.
Declared = tuple[Iterable[str], Iterable[str]]


class StepRegistry(Mapping[str, Step[Any]]):
    """
    The steps that this process can undo, by the type of their receipts.

    Iteration covers the steps found so far. Others are searched when a journal names them.
    """

    def __init__(
        self, builtin: Iterable[Step[Any]], *, declared: Callable[[], Declared] = lambda: ((), ())
    ) -> None:
        """Start with the steps in *builtin*; *declared* returns modules and directories."""
        self._found = steps_by_type(builtin)
        self._declared = declared
        self._places: tuple[str, ...] = ()
        self._homes: dict[str, str] = {}  #: The module of each declared type.

    def __getitem__(self, kind: str) -> Step[Any]:
        """
        Return the step whose receipts are of the type *kind*.

        Raises:
            UnknownStep: No such step is declared, or the declared one cannot be imported.
        """
        if kind not in self._found:
            self._found[kind] = self._find(kind)
        return self._found[kind]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the types found so far."""
        return iter(self._found)

    def __len__(self) -> int:
        """Return the number of types found so far."""
        return len(self._found)

    def require_known(self, step: Step[Any]) -> None:
        """
        Check that other processes can undo *step*.

        Raises:
            InvalidInput: They could not.
        """
        [kind] = steps_by_type([step])
        try:
            self[kind]
        except UnknownStep as error:
            raise InvalidInput(
                f"no other process could undo this step: {error}", hint=error.hint
            ) from error
        module = self._homes.get(kind)
        if module is not None and not import_path.is_importable(module, self._places):
            raise InvalidInput(
                f"no other process could undo the step {kind!r}: its module {module!r} is in no "
                "installed package, and in no directory of [steps] path",
                hint='install it, or in orchestrator.toml: [steps] path = ["/its/directory"]',
            )

    def _find(self, kind: str) -> Step[Any]:
        failures: list[str] = []
        try:
            modules, places = self._declared()
            self._places = tuple(places)
            import_path.extend(self._places)
        except OrchestratorError as error:  # The settings cannot be read.
            modules, failures = (), [str(error)]
        declared = (functools.partial(_find_in_module, module) for module in modules)
        searches: list[Callable[[str], _Found | None]]
        searches = [_find_builtin, *declared, _find_entry_point]
        for search in searches:
            try:
                found = search(kind)
            except Exception as error:  # noqa: BLE001 - others' code; another place may have the step
                failures.append(f"{type(error).__name__}: {error}")
            else:
                if found is not None:
                    if found.module is not None:
                        self._homes[kind] = found.module
                    return found.step
        tried = f" (and {'; '.join(failures)})" if failures else ""
        raise UnknownStep(
            f"step type {kind!r} is unknown: name its module under [steps] in "
            f"orchestrator.toml, or install a package with its entry point in {GROUP!r}{tried}",
            hint="declare the step in your own orchestrator.toml, or approve the root's: "
            "orchestrator-core approve; or install its package; then recover",
        )


class _Found(NamedTuple):
    step: Step[Any]
    module: str | None = None  #: The declared module; None for a step of this library.


def _find_builtin(kind: str) -> _Found | None:
    if kind not in STEP_TYPES:
        return None
    module, name = STEP_TYPES[kind]
    return _Found(_instance(getattr(importlib.import_module(module), name)))


def _find_in_module(module: str, kind: str) -> _Found | None:
    listed = getattr(importlib.import_module(module), LIST, ())
    step = steps_by_type(map(_instance, listed)).get(kind)
    return None if step is None else _Found(step, module)


def _find_entry_point(kind: str) -> _Found | None:
    from importlib.metadata import entry_points  # noqa: PLC0415 - seldom needed, and slow

    for point in entry_points(group=GROUP, name=kind):
        found = _instance(point.load())
        if kind in steps_by_type([found]):
            return _Found(found, point.value.partition(":")[0])
        raise UnknownStep(
            f"the entry point {kind!r} leads to {point.value}, whose receipts have another type"
        )
    return None


def _instance(declared: Any) -> Step[Any]:  # noqa: ANN401 - a step or its class, by declaration
    step: Step[Any] = declared() if isinstance(declared, type) else declared
    return step
