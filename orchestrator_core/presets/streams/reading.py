"""Read a log's result: whose lines it has, and what they say."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from orchestrator_core.presets.streams.claude import Claude
from orchestrator_core.presets.streams.codex import Codex
from orchestrator_core.presets.streams.events import Event, Teller, event_of
from orchestrator_core.presets.streams.gemini import Gemini
from orchestrator_core.presets.streams.log import Log, opened
from orchestrator_core.presets.streams.result import AgentResult

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

_TELLERS: dict[str, type[Teller]] = {teller.format: teller for teller in (Claude, Codex, Gemini)}


def read_stream(path: Path, format_: object = None) -> AgentResult:
    """
    Return what the log at *path* says of its agent's result.

    *format_* is whose lines they are, if that is known; else they are recognised.
    All of it is None if they are nobody's.

    Raises:
        FileNotFoundError: There is no log, compressed or not.
        StorageError: It cannot be read.
    """
    with opened(path) as log:
        kind = _TELLERS.get(str(format_)) or _recognised(log)
        return AgentResult() if kind is None else _told(kind(), log)


def _recognised(log: Log) -> type[Teller] | None:
    lines = itertools.chain(log.first_lines(), log.newest_first())
    for event in _events(lines):
        for teller in _TELLERS.values():
            if teller.knows(event):
                return teller
    return None


def _told(teller: Teller, log: Log) -> AgentResult:
    for event in _events(log.newest_first()):
        if teller.knows(event):
            teller.hear(event)
            teller.has_heard = True
            if teller.has_enough:
                break
    if "session_id" not in teller.known:
        known = filter(teller.knows, _events(log.first_lines()))
        teller.learn(session_id=next(filter(None, map(teller.session_of, known)), None))
    return teller.told()


def _events(lines: Iterable[bytes]) -> Iterator[Event]:
    return (event for line in lines if (event := event_of(line)) is not None)
