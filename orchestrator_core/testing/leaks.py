"""What is still there of a root's agents: for a test in which every one of them has ended."""

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

#: The files of a root in which nobody lives, relative to it.
_KEPT = re.compile(
    r"[^/]+\.(json|toml|lock|sock)|[^/]+\.json\.lock|registry/.*|sagas/closed/.*"
    r"|TASK-[^/]+/(AGENT_REGISTRY\.json[^/]*|(archive|output)/.*)"
)


def leaks(orch: Orchestrator) -> list[str]:
    """
    Return a sentence for each thing of its agents that is there: none, if all have ended.

    A session, a process, a saga that is not closed, a file of theirs outside of the
    archive; on real tmux and this machine's processes as well as on a fake.
    """
    context = orch._context  # noqa: SLF001 - to be asked as it asks, without a word in between
    looks = (_sagas, _sessions, _processes, _files)
    return [sentence for look in looks for sentence in look(orch, context)]


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
        is_saga = path.parent == context.layout.sagas and path.suffix == ".jsonl"  # told of above
        if not (path.is_dir() or is_saga or _KEPT.fullmatch(name)):
            yield f"file {name}"


class Watch:
    """Knows, while it is entered, of every orchestrator that is opened in this process."""

    def __init__(self) -> None:
        self._opened: dict[Path, Orchestrator] = {}
        self._original: Callable[..., None] | None = None

    def left(self) -> list[str]:
        """Return the leaks of all roots that have been opened."""
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
