"""What a check is told about (:class:`Environment`), and what it has to say (:class:`Answer`)."""

from __future__ import annotations

import enum
import os
from functools import cached_property
from typing import TYPE_CHECKING

import attrs

from orchestrator_core.exceptions import OrchestratorError
from orchestrator_core.model.layout import Layout, read_root_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path


class Verdict(enum.Enum):
    """How a check came out, from good to bad."""

    OK = "ok"
    UNKNOWN = "unknown"  #: It could not be found out.
    WARNING = "warning"  #: It works, and may not for ever, or not for all.
    FAILED = "failed"  #: Something will not work, or does not.


@attrs.frozen(kw_only=True)
class Check:
    """One check: what was found, and what to do about it."""

    name: str
    verdict: Verdict
    found: str
    remedy: str = ""  #: What to do. Of what is OK: how one comes by what need not be there.

    def to_dict(self) -> dict[str, str]:
        """Return it as JSON-safe values."""
        return {**attrs.asdict(self), "verdict": self.verdict.value}


@attrs.frozen
class Answer:
    """What a check has to say; it has its name from the table of checks."""

    verdict: Verdict
    found: str
    remedy: str = ""


def ok(found: str) -> Answer:
    """All is well."""
    return Answer(Verdict.OK, found)


def unknown(found: str, remedy: str) -> Answer:
    """It could not be found out."""
    return Answer(Verdict.UNKNOWN, found, remedy)


def warning(found: str, remedy: str) -> Answer:
    """It works, and may not for ever."""
    return Answer(Verdict.WARNING, found, remedy)


def failed(found: str, remedy: str) -> Answer:
    """It does not work."""
    return Answer(Verdict.FAILED, found, remedy)


def from_error(error: Exception) -> Answer:
    """Something that we need raised."""
    hint = error.hint if isinstance(error, OrchestratorError) else ""
    return failed(str(error) or type(error).__name__, hint or "see what the message names")


def worst_of(answers: Iterable[Answer], *, well: str) -> Answer:
    """Return one answer for many: the worst verdict, all that is not well; *well* if all is."""
    troubles = [answer for answer in answers if answer.verdict is not Verdict.OK]
    if not troubles:
        return ok(well)
    order = list(Verdict)
    worst = max((answer.verdict for answer in troubles), key=order.index)
    remedies = dict.fromkeys(answer.remedy for answer in troubles)
    return Answer(worst, "; ".join(each.found for each in troubles), "; ".join(remedies))


def shorten_list(things: Iterable[object], *, shown: int = 3) -> str:
    """Return the first of many in words, and how many more there are."""
    names = [str(thing) for thing in things]
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


@attrs.define
class Environment:
    """What is examined. Nothing here makes or changes anything."""

    root: Path | None  #: None: it cannot even be told where it would be.
    chosen_by: str
    trouble: str  #: Then, why not.
    env: Mapping[str, str]
    timeout_s: float  #: For each thing that is asked of somebody else.

    @property
    def layout(self) -> Layout | None:
        """The layout of the root; None if there is no root."""
        # Not Path.is_dir, which raises where a directory above may not be searched.
        if self.root is None or not os.path.isdir(self.root):  # noqa: PTH112
            return None
        return Layout(self.root)

    @cached_property
    def fixed(self) -> tuple[str, Path] | OrchestratorError | None:
        """The root's id and its socket; why they cannot be read; None if it was never used."""
        if self.layout is None:
            return None
        try:
            return read_root_file(self.layout)
        except OrchestratorError as error:
            return error

    @property
    def root_id(self) -> str | None:
        """The root's id, if it is known."""
        return self.fixed[0] if isinstance(self.fixed, tuple) else None

    @property
    def socket(self) -> Path | None:
        """Where the root's tmux server listens, if it is known."""
        return self.fixed[1] if isinstance(self.fixed, tuple) else None
