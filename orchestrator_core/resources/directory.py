"""A directory that lives as long as the agent."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from orchestrator_core.resources.private_dir import (
    check_name,
    is_directory,
    is_there,
    make_private,
    remove_if_empty,
    remove_tree,
    saga_dir,
)
from orchestrator_core.resources.provision import Provision
from orchestrator_core.saga import Outcome, Presence, receipt

if TYPE_CHECKING:
    import os

    from orchestrator_core.saga import Context, Unwind


@receipt("temp_directory")
class TempDirectoryReceipt:
    """Where it is."""

    path: str


@attrs.frozen(kw_only=True)
class TempDirectory:
    """
    A directory, 0700 and empty at first, that is removed with all that is in it.

    The agent finds it as ``{tmp}`` in its command and as ``TMPDIR`` in its environment,
    so that what its tools put into the temporary directory goes as well. With a *name*,
    which a second one needs, it is ``{name}`` and ``NAME``; *variable* calls it otherwise.

    It is in a place of the agent's own below the root; or in one below *directory*, which
    may be on another disk, or in memory.
    """

    receipt_type = TempDirectoryReceipt

    name: str = attrs.field(default="", validator=lambda _, __, name: check_name(name))
    variable: str = ""
    directory: str | os.PathLike[str] | None = None

    def plan(self, ctx: Context) -> TempDirectoryReceipt:
        """Name it."""
        return TempDirectoryReceipt(str(saga_dir(ctx, self.directory) / (self.name or "tmp")))

    def do(self, receipt: TempDirectoryReceipt) -> TempDirectoryReceipt:
        """Make it."""
        path = Path(receipt.path)
        make_private(path.parent)
        path.mkdir(mode=0o700)
        return receipt

    def provide(self, receipt: TempDirectoryReceipt) -> Provision:
        """Tell where it is."""
        variable = self.variable or (self.name.upper() if self.name else "TMPDIR")
        return Provision(
            environment={variable: receipt.path},
            placeholders={self.name or "tmp": receipt.path},
        )

    def undo(self, receipt: TempDirectoryReceipt, _why: Unwind) -> Outcome:
        """Remove it, read-only files and all."""
        path = Path(receipt.path)
        if not is_directory(path):
            remove_if_empty(path.parent)
            return Outcome.absent()
        freed = remove_tree(path)
        remove_if_empty(path.parent)
        return Outcome.undone(bytes_freed=freed)

    def probe(self, receipt: TempDirectoryReceipt) -> Presence:
        """Look for it; nobody else has its name."""
        return Presence.OURS if is_there(receipt.path) else Presence.ABSENT
