"""Find what is left of a root's agents, for a test in which all of them have ended."""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING

from orchestrator_core.exceptions import OrchestratorError
from orchestrator_core.model import ids

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import TracebackType
    from typing import Any, Self

    from orchestrator_core.deployment.context import RootContext
    from orchestrator_core.orchestrator import Orchestrator

#: The relative paths of the files in a root without agents.
_KEPT = re.compile(
    r"[^/]+\.(json|toml|lock|sock)|[^/]+\.json\.lock|registry/.*|sagas/closed/.*"
    r"|TASK-[^/]+/(AGENT_REGISTRY\.json[^/]*|(archive|output)/.*)"
)


def leaks(orch: Orchestrator) -> list[str]:
    """
    Return a sentence for each leftover of the root's agents; none, if all have ended.

    A leftover is a session, a process, a saga that is not closed, or a file of an agent outside
    the archive. Works on a fake, and on real tmux and processes.
    """
    context = orch._context  # noqa: SLF001 - the same terminal and processes
    scans = (_sagas, _sessions, _processes, _files)
    return [sentence for scan in scans for sentence in scan(orch, context)]


def _sagas(orch: Orchestrator, context: RootContext) -> Iterator[str]:
    for path in sorted(context.layout.sagas.glob("*.jsonl")):
        try:
            state = orch.history(path.stem).state.value
        except OrchestratorError as error:
            state = str(error)
        yield f"saga {path.stem}: {state}"


def _sessions(_: Orchestrator, context: RootContext) -> Iterator[str]:
    own = ids.process_cookie(context.root_id, "x")[:-1]
    for session in context.terminal.sessions():
        if (session.owner or "").startswith(own):
            yield f"session {session.name}"


def _processes(_: Orchestrator, context: RootContext) -> Iterator[str]:
    own = ids.process_cookie(context.root_id, "x")[:-1]
    for process in context.processes.find_tagged(own):
        agent_id = process.cookie.removeprefix(own)
        yield f"process {process.identity.pid} ({process.name}) of {agent_id}"


def _files(_: Orchestrator, context: RootContext) -> Iterator[str]:
    root = context.layout.root
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        is_saga = path.parent == context.layout.sagas and path.suffix == ".jsonl"  # see _sagas
        if not (path.is_dir() or is_saga or _KEPT.fullmatch(name)):
            yield f"file {name}"


class Watch:
    """Records, while it is entered, every orchestrator that this process opens."""

    def __init__(self) -> None:
        self._opened: dict[Path, Orchestrator] = {}
        self._original: Callable[..., None] | None = None

    def left(self) -> list[str]:
        """Return the leaks of all recorded roots."""
        return [sentence for orch in self._opened.values() for sentence in leaks(orch)]

    def __enter__(self) -> Self:
        from orchestrator_core.orchestrator import Orchestrator  # noqa: PLC0415 - a cycle else

        self._original = original = Orchestrator.__init__

        @functools.wraps(original)
        def opened(orch: Orchestrator, *args: Any, **how: Any) -> None:  # noqa: ANN401 - its own
            original(orch, *args, **how)
            self._opened.setdefault(orch.root, orch)

        Orchestrator.__init__ = opened  # type: ignore[method-assign, assignment]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        from orchestrator_core.orchestrator import Orchestrator  # noqa: PLC0415 - as above

        Orchestrator.__init__ = self._original  # type: ignore[method-assign, assignment]
