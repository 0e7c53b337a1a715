"""
A git worktree for an agent, on a branch of its own.

What the agent has done is not thrown away with it: changes that are not committed keep
the worktree, and commits that nobody else has keep the branch. All else is removed. What
`.gitignore` names is no work.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from orchestrator_core.exceptions import InvalidInput
from orchestrator_core.resources.git import Git, GitError, alone
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
    from collections.abc import Iterator

    from orchestrator_core.saga import Context, Unwind

_PREFIX = re.compile(r"([A-Za-z0-9][A-Za-z0-9_-]*/)+")

#: Nothing of the repository's own is run when a worktree is looked at, or removed.
_QUIETLY = ("-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false")


@receipt("git_worktree")
@attrs.frozen
class GitWorktreeReceipt:
    """The worktree, its branch, and where it began."""

    repository: str  #: What all worktrees of the repository share: its ``.git``.
    path: str  #: The last part of it is the worktree's name among them, and nobody else's.
    branch: str
    base: str  #: The commit.
    shared: str  #: The prefix of all agents' branches.
    timeout_s: float = 120.0
    made: bool = False  #: It was whole: an agent may have worked in it.

    @property
    def lock(self) -> Path:
        """What is locked by whoever runs git on it."""
        return Path(f"{self.path}.lock")

    @property
    def entry(self) -> Path:
        """Where the repository keeps what it knows of the worktree."""
        return Path(self.repository, "worktrees", Path(self.path).name)


@attrs.frozen
class GitWorktree:
    """
    A worktree of *repository*, on a new branch that begins at *base*.

    The agent runs in it, unless its spec says where; it is ``{worktree}`` in its command
    and ``WORKTREE`` in its environment, its branch ``{branch}`` and ``BRANCH``. With a
    *name*, which a second one needs, ``{name}``, ``NAME``, ``{name_branch}``,
    ``NAME_BRANCH``; and that is not where the agent runs. The branch is called
    *prefix* and the agent's id.

    Undone, it keeps what would be lost otherwise, and the report's outcome is ``left``,
    with ``kept`` to say what and where:

    - the worktree and its branch, if there are changes that are not committed, files that
      are neither added nor ignored, submodules, or commits on no branch;
    - the branch, if it has commits that no other branch, remote branch or tag has.
      Branches with the same *prefix* do not count: they are other agents', and may go.

    No git command may take longer than *timeout_s*, hooks of the checkout included.
    """

    receipt_type = GitWorktreeReceipt

    repository: str | os.PathLike[str] = "."
    base: str = attrs.field(default="HEAD", kw_only=True)
    prefix: str = attrs.field(default="agent/", kw_only=True)
    name: str = attrs.field(
        default="", kw_only=True, validator=lambda _, __, name: check_name(name)
    )
    directory: str | os.PathLike[str] | None = attrs.field(default=None, kw_only=True)
    timeout_s: float = attrs.field(default=120.0, kw_only=True)

    def plan(self, ctx: Context) -> GitWorktreeReceipt:
        """
        Find the repository and the commit; name the worktree and the branch.

        Raises:
            InvalidInput: It is no repository, has no such commit, or there is no git.
        """
        if _PREFIX.fullmatch(self.prefix) is None:
            raise InvalidInput(
                f"{self.prefix!r:.60} cannot begin a branch's name", hint="for example: agent/"
            )
        git, where = Git(self.timeout_s), Path(self.repository).expanduser().absolute()
        try:
            common = git("rev-parse", "--path-format=absolute", "--git-common-dir", cwd=where)
            base = git(
                *("rev-parse", "--verify", "--quiet", "--end-of-options"),
                f"{self.base}^{{commit}}",
                cwd=where,
            )
        except (GitError, OSError) as error:
            raise InvalidInput(
                f"no worktree can be made of {where} at {self.base!r:.80}: {error}",
                hint="is it a git repository, with a commit of that name?",
            ) from error
        own = "-".join(filter(None, (ctx.saga_id, self.name)))
        return GitWorktreeReceipt(
            repository=common.rstrip("\n"),
            path=str(saga_dir(ctx, self.directory) / own),
            branch=f"{self.prefix}{own}",
            base=base.strip(),
            shared=self.prefix,
            timeout_s=self.timeout_s,
        )

    def do(self, receipt: GitWorktreeReceipt) -> GitWorktreeReceipt:
        """Make both, in one call."""
        make_private(Path(receipt.path).parent)
        with alone(receipt.lock, timeout_s=receipt.timeout_s, make=True) as git:
            make = ("worktree", "add", "--quiet", "--no-track", "-b", receipt.branch)
            git(f"--git-dir={receipt.repository}", *make, receipt.path, receipt.base)
        return attrs.evolve(receipt, made=True)

    def provide(self, receipt: GitWorktreeReceipt) -> Provision:
        """Tell where it is, and have the agent run there."""
        path, branch = self.name or "worktree", f"{self.name}_branch".lstrip("_")
        return Provision(
            environment={path.upper(): receipt.path, branch.upper(): receipt.branch},
            placeholders={path: receipt.path, branch: receipt.branch},
            cwd=None if self.name else receipt.path,
        )

    def undo(self, receipt: GitWorktreeReceipt, _why: Unwind) -> Outcome:
        """Remove both, or keep what would be lost, and say where it is."""
        with alone(receipt.lock, timeout_s=receipt.timeout_s) as git:
            outcome = _Removal(receipt, git).run()
        receipt.lock.unlink(missing_ok=True)  # Nobody of ours is left who could wait for it.
        remove_if_empty(receipt.lock.parent)
        return outcome

    def probe(self, receipt: GitWorktreeReceipt) -> Presence:
        """Look for the worktree; nobody else has its name."""
        return Presence.OURS if is_there(receipt.path) else Presence.ABSENT


class _Removal:
    """One worktree on its way out."""

    def __init__(self, receipt: GitWorktreeReceipt, git: Git) -> None:
        self._tree = receipt
        self._path = Path(receipt.path)
        self._ref = f"refs/heads/{receipt.branch}"
        self._run = git

    def run(self) -> Outcome:
        tree = self._tree
        if not is_directory(Path(tree.repository).resolve()):
            return self._without_repository()
        was_there = is_there(self._path) or is_there(tree.entry)
        work = self._unsaved_work() if tree.made and is_directory(self._path) else ""
        if work:
            return Outcome.left(
                kept=f"worktree {tree.path} on branch {tree.branch}: {work}",
                path=tree.path,
                branch=tree.branch,
                repository=tree.repository,
            )
        freed = self._remove_worktree()
        tip = self._tip()
        commits = self._unmerged(self._ref) if tip else 0
        elsewhere = tip and self._is_checked_out()
        if tip and (commits or elsewhere):
            why = f"{commits} commits that no other branch has" if commits else "checked out"
            return Outcome.left(
                kept=f"branch {tree.branch} in {tree.repository}: {why}",
                branch=tree.branch,
                repository=tree.repository,
                commits=commits,
            )
        if tip:
            self._git("update-ref", "-d", self._ref, tip)
        return Outcome.undone(bytes_freed=freed) if was_there or tip else Outcome.absent()

    def _without_repository(self) -> Outcome:
        if not is_there(self._path):
            return Outcome.absent()
        gone = f"its repository {self._tree.repository} is gone"
        return Outcome.left(kept=f"worktree {self._path}: {gone}", path=str(self._path))

    # --- what would be lost ---------------------------------------------------------------------

    def _unsaved_work(self) -> str:
        """Return what is in the worktree and nowhere else, in words; empty if nothing is."""
        return "; ".join(self._reasons_to_keep())

    def _reasons_to_keep(self) -> Iterator[str]:
        try:
            changes = self._inside("status", "--porcelain", "--untracked-files=normal")
            if changes:
                yield f"{len(changes.splitlines())} changes that are not committed"
            if self._unmerged(self._inside("rev-parse", "HEAD").strip(), own=True):
                yield "commits on no branch"
        except GitError as error:
            yield f"git cannot read it ({error})"
        modules = self._tree.entry / "modules"
        if modules.is_dir() and any(modules.iterdir()):
            yield "submodules, whose commits are kept with it"

    def _unmerged(self, tip: str, *, own: bool = False) -> int:
        """Count what *tip* has, and no branch or tag that will stay; or our *own* one either."""
        others = () if own else (f"--exclude={self._tree.shared}*",)
        known = (*others, "--branches", "--remotes", "--tags", self._tree.base)
        return int(self._git("rev-list", "--count", tip, "--not", *known))

    def _tip(self) -> str:
        """Return the commit that our branch is at; empty if there is no such branch."""
        said = self._git("for-each-ref", "--format=%(objectname)", self._ref)
        return said.strip()

    def _is_checked_out(self) -> bool:
        """Tell whether somebody has our branch in a worktree of theirs."""
        listed = self._git("worktree", "list", "--porcelain")
        return f"branch {self._ref}" in listed.splitlines()

    # --- out with it ----------------------------------------------------------------------------

    def _remove_worktree(self) -> int:
        """Remove the directory, and what the repository knows of it, be it whole or half made."""
        freed = remove_tree(self._path) if is_directory(self._path) else 0
        if is_there(self._tree.entry):
            with contextlib.suppress(GitError):  # Half made, it is none that git would know.
                self._git("worktree", "remove", "--force", "--force", str(self._path))
            if is_there(self._tree.entry):
                shutil.rmtree(self._tree.entry)
        return freed

    def _git(self, *arguments: str) -> str:
        return self._run(*_QUIETLY, f"--git-dir={self._tree.repository}", *arguments)

    def _inside(self, *arguments: str) -> str:
        return self._run(*_QUIETLY, *arguments, cwd=self._path)
