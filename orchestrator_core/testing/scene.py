"""One temporary root on one fake world, in memory if the machine has such a directory."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from orchestrator_core.orchestrator import Orchestrator
from orchestrator_core.testing.fake_terminal import FakeTerminal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestrator_core.testing.scripts import Script


class Scene:
    """
    One root and one fake terminal, for as many orchestrators as a test needs.

    The fake's ``unwinder`` unwinds an agent that has exited, as a real supervisor does. Closing
    the scene ends all agents and removes the root.
    """

    def __init__(
        self,
        agents: Mapping[str, Script | Sequence[Script]] | None = None,
        *,
        default: Script | None = None,
    ) -> None:
        self.terminal = FakeTerminal(agents, default=default)
        self.terminal.unwinder = self._unwind
        self.place = Path(tempfile.mkdtemp(prefix="oc-", dir=_fast_place()))
        self.root = self.place / "root"

    def orchestrator(self, **how: Any) -> Orchestrator:  # noqa: ANN401 - Orchestrator's own
        """Open the root as another process would, which recovers the sagas of dead owners."""
        return Orchestrator(self.root, terminal=self.terminal, **how)

    def _unwind(self, argv: list[str]) -> None:
        """Unwind the agent that the last argument names, as a supervisor's unwinder does."""
        self.orchestrator(recover=False).finish(argv[-1])

    def close(self) -> None:
        """End all agents, and remove the root."""
        self.terminal.reboot()
        shutil.rmtree(self.place, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _fast_place() -> str | None:
    """Return a directory in memory, if there is one: a fake needs no durability."""
    memory = "/dev/shm"  # noqa: S108 - mkdtemp makes a private directory in it
    return memory if os.access(memory, os.W_OK | os.X_OK) else None
