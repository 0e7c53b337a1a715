"""A temporary directory that lives as long as the agent."""

from __future__ import annotations

from pathlib import Path

import attrs

from orchestrator_core.resources import private_dir
from orchestrator_core.resources.provision import Provision
from orchestrator_core.saga import Context, Outcome, Unwind, receipt


@receipt("temp_directory")
class TempDirectoryReceipt:
    """The directory's path."""

    path: str


@attrs.frozen(kw_only=True)
class TempDirectory(private_dir.PrivateDirOptions):
    """
    An empty directory with mode 0700. The undo removes it with all its content.

    In the agent's command it is ``{tmp}``, in its environment ``TMPDIR``, so the temporary
    files of the agent's tools are removed as well. With a *name*, which a second one needs,
    these are ``{name}`` and ``NAME``; *variable* overrides the variable's name.

    The directory is below the root, or below *directory*, which may be on another disk or in
    memory.
    """

    receipt_type = TempDirectoryReceipt

    variable: str = ""

    def plan(self, ctx: Context) -> TempDirectoryReceipt:
        """Fix the path."""
        return TempDirectoryReceipt(str(self.saga_dir(ctx) / (self.name or "tmp")))

    def do(self, receipt: TempDirectoryReceipt) -> TempDirectoryReceipt:
        """Create the directory."""
        path = Path(receipt.path)
        private_dir.make_private(path.parent)
        path.mkdir(mode=0o700)
        return receipt

    def provide(self, receipt: TempDirectoryReceipt) -> Provision:
        """Return the path, as a variable and a placeholder."""
        return Provision(
            environment={self.variable or self.name.upper() or "TMPDIR": receipt.path},
            placeholders={self.name or "tmp": receipt.path},
        )

    def undo(self, receipt: TempDirectoryReceipt, _why: Unwind) -> Outcome:
        """Remove the directory, read-only content included."""
        path = Path(receipt.path)
        freed = private_dir.remove(path)
        private_dir.remove_if_empty(path.parent)
        return Outcome.absent() if freed is None else Outcome.undone(bytes_freed=freed)
