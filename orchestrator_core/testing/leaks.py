"""Find what is left of a root's agents, for a test in which all of them have ended."""

from __future__ import annotations

import contextlib
import functools
import re
from typing import TYPE_CHECKING

from orchestrator_core.exceptions import OrchestratorError
from orchestrator_core.model import ids

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Any

    from orchestrator_core.orchestrator import Orchestrator

#: The relative paths of the files in a root without agents.
_KEPT = re.compile(
    r"\.gitignore|[^/]+\.(json|toml|lock|sock)|[^/]+\.json\.lock|registry/.*|sagas/closed/.*"
    r"|TASK-[^/]+/(\.?AGENT_REGISTRY\.json[^/]*|(archive|output)/.*)"
)


def leaks(orch: Orchestrator) -> list[str]:
    """
    Return a sentence for each leftover of the root's agents; none, if all have ended.

    A leftover is a session, a process, a saga that is not closed, or a file of an agent outside
    the archive. Works on a fake, and on real tmux and processes.
    """
    context = orch._context  # noqa: SLF001 - the same terminal and processes
    own = ids.process_cookie(context.root_id, "x")[:-1]
    root = context.layout.root
    sagas = sorted(context.layout.sagas.glob("*.jsonl"))
    sessions = [s for s in context.terminal.sessions() if (s.owner or "").startswith(own)]
    files = [path for path in sorted(root.rglob("*")) if not path.is_dir() and path not in sagas]
    names = [path.relative_to(root).as_posix() for path in files]
    return [
        *(f"saga {path.stem}: {_saga_state(orch, path.stem)}" for path in sagas),
        *(f"session {session.name}" for session in sessions),
        *(
            f"process {found.identity.pid} ({found.name}) of {found.cookie.removeprefix(own)}"
            for found in context.processes.find_tagged(own)
        ),
        *(f"file {name}" for name in names if not _KEPT.fullmatch(name)),
    ]


def _saga_state(orch: Orchestrator, saga_id: str) -> str:
    try:
        return orch.history(saga_id).state.value
    except OrchestratorError as error:
        return str(error)


@contextlib.contextmanager
def record_opened_roots() -> Iterator[dict[Path, Orchestrator]]:
    """Record every root that this process opens within the block, and its first orchestrator."""
    from orchestrator_core.orchestrator import Orchestrator  # noqa: PLC0415 - a cycle else

    opened: dict[Path, Orchestrator] = {}
    original = Orchestrator.__init__

    @functools.wraps(original)
    def record(orch: Orchestrator, *args: Any, **how: Any) -> None:  # noqa: ANN401 - its own
        original(orch, *args, **how)
        opened.setdefault(orch.root, orch)

    Orchestrator.__init__ = record  # type: ignore[method-assign, assignment]
    try:
        yield opened
    finally:
        Orchestrator.__init__ = original  # type: ignore[method-assign]
