"""The steps that hold files: the prompt, and the log with all that belongs to it."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import msgspec

from orchestrator_core.deployment.documents import build_launch
from orchestrator_core.deployment.steps.base import DeploymentStep, presence, task_and_agent
from orchestrator_core.saga import Outcome, Presence, Unwind, receipt
from orchestrator_core.supervisor import launch as launch_file
from orchestrator_core.system import durable, move
from orchestrator_core.system.os_errors import storage_errors

if TYPE_CHECKING:
    from orchestrator_core.saga import Context


@receipt("write_prompt")
class PromptReceipt:
    """The prompt file."""

    path: str


class WritePrompt(DeploymentStep):
    """Write the prompt where only its owner can read it."""

    receipt_type = PromptReceipt

    def plan(self, ctx: Context) -> PromptReceipt:
        """Derive the path."""
        return PromptReceipt(str(self.context.layout.prompt(*task_and_agent(ctx))))

    def do(self, receipt: PromptReceipt) -> PromptReceipt:
        """Write the file."""
        durable.create(receipt.path, self.inputs.spec.prompt.encode(), durable=False)
        return receipt

    def undo(self, receipt: PromptReceipt, _why: Unwind) -> Outcome:
        """Delete the file."""
        if not durable.exists(receipt.path):
            return Outcome.absent()
        return Outcome.undone(bytes_freed=durable.remove(receipt.path))

    def probe(self, receipt: PromptReceipt) -> Presence:
        """Return whether the file exists."""
        return presence(receipt.path)


# --- tee_log -----------------------------------------------------------------------------


@receipt("tee_log")
class LogReceipt:
    """The log, and all other files of the agent but the prompt."""

    log: str
    deploy_log: str
    progress: str
    findings: str
    run: str  #: The supervisor's directory.
    archive: str

    @property
    def events(self) -> str:
        """The FIFO of the supervisor's events."""
        return f"{self.run}/events"

    @property
    def launch_file(self) -> str:
        """The supervisor's configuration."""
        return f"{self.run}/launch"

    @property
    def archived_files(self) -> tuple[str, ...]:
        """The files that an end moves to the archive."""
        return self.log, self.deploy_log, self.progress, self.findings


class OpenLog(DeploymentStep):
    """
    Create the log, and the files that the supervisor reads.

    The log *is* the agent's standard output: there is nothing between them that could lose
    a line.
    """

    receipt_type = LogReceipt

    def plan(self, ctx: Context) -> LogReceipt:
        """Derive the paths."""
        layout, own = self.context.layout, task_and_agent(ctx)
        return LogReceipt(
            log=str(layout.log(*own)),
            deploy_log=str(layout.deploy_log(*own)),
            progress=str(layout.progress(*own)),
            findings=str(layout.findings(*own)),
            run=str(layout.run_dir(*own)),
            archive=str(layout.archive(own[0])),
        )

    def do(self, receipt: LogReceipt) -> LogReceipt:
        """Create the files."""
        for name in (receipt.log, receipt.progress, receipt.findings, receipt.run):
            durable.make_directory(durable.parent_of(name))
        durable.make_directory(receipt.archive)
        durable.create(receipt.log, b"", durable=False)
        launch = build_launch(self.context, self.inputs)
        deploy_log = {**self.inputs.deploy_log, "cwd": launch.cwd}
        encoded = msgspec.json.format(msgspec.json.encode(deploy_log))
        durable.create(receipt.deploy_log, encoded + b"\n", durable=False)
        with storage_errors("make", receipt.run):
            os.mkdir(receipt.run, 0o700)
            os.mkfifo(receipt.events, 0o600)
            durable.create(receipt.launch_file, launch_file.encode(launch), durable=False)
        return receipt

    def undo(self, receipt: LogReceipt, why: Unwind) -> Outcome:
        """Archive the log and the reports; or delete all of it, if *why* says so."""
        there = [path for path in receipt.archived_files if durable.exists(path)]
        if not there and not durable.exists(receipt.run):
            return Outcome.absent()
        archived: list[str] = []
        freed = 0
        if why.removes_everything or not why.detail.get("keep_logs", True):
            freed += sum(durable.remove(path, durable=False) for path in there)
            for directory in set(map(durable.parent_of, there)):
                durable.fsync_directory(directory)
        elif there:
            durable.make_directory(receipt.archive)
            archived = move.move_all_no_clobber(
                [(path, f"{receipt.archive}/{os.path.basename(path)}") for path in there]
            )
        freed += _remove_run_directory(receipt.run)
        return Outcome.undone(archived=archived, bytes_freed=freed)

    def probe(self, receipt: LogReceipt) -> Presence:
        """Return whether the log exists."""
        return presence(receipt.log)


def _remove_run_directory(run: str) -> int:
    """Remove the supervisor's directory with its content; return the size in bytes."""
    try:
        with os.scandir(run) as entries:
            freed = sum(entry.stat(follow_symlinks=False).st_size for entry in entries)
    except FileNotFoundError:
        return 0
    with storage_errors("remove", run):
        shutil.rmtree(run)
    return freed
