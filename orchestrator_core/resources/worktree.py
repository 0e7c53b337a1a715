"""
A git worktree for an agent, on a new branch.

The undo keeps an agent's work: what :mod:`.unsaved_work` finds keeps the worktree, and commits
that are on no other branch keep the branch. Everything else is removed. Files that
`.gitignore` names are not work, unless the step says so.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import attrs

from orchestrator_core.exceptions import InvalidInput, ReceiptRefused
from orchestrator_core.resources import private_dir
from orchestrator_core.resources.git import Git, GitError, PassiveGit, locked_git
from orchestrator_core.resources.provision import Provision
from orchestrator_core.resources.unsaved_work import UnsavedWork, examine
from orchestrator_core.saga import Context, Outcome, Unwind, receipt
from orchestrator_core.saga.verification import naming_id
from orchestrator_core.system import durable, paths
from orchestrator_core.system.inheritance import GIT_PLACES
from orchestrator_core.system.tree import remove_tree

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping

_PREFIX = re.compile(r"([A-Za-z0-9][A-Za-z0-9_-]*/)+")


def _to_pathspecs(given: Iterable[str]) -> tuple[str, ...]:
    if isinstance(given, str):
        raise InvalidInput("keep_ignored is one string", hint='give a list: ["*.env", "results/"]')
    return tuple(given)


@receipt("git_worktree")
@attrs.frozen
class GitWorktreeReceipt:
    """The worktree, its branch, and the commit at which the branch begins."""

    repository: str  #: The directory that all worktrees of the repository share: its ``.git``.
    path: str  #: The last part is the worktree's unique name in the repository.
    branch: str
    base: str  #: The commit.
    shared: str  #: The prefix of all agents' branches.
    timeout_s: float = 120.0
    made: bool = False  #: The worktree was complete: an agent may have worked in it.
    keep_ignored: tuple[str, ...] = ()  #: Pathspecs of ignored files that are work.

    @property
    def location(self) -> Path:
        """The path of the worktree's directory."""
        return Path(self.path)

    @property
    def lock(self) -> Path:
        """The lock file of every process that runs git on the worktree."""
        return Path(f"{self.path}.lock")

    @property
    def entry(self) -> Path:
        """The repository's own directory for the worktree."""
        return Path(self.repository, "worktrees", Path(self.path).name)


@attrs.frozen
class GitWorktree(private_dir.PrivateDirOptions):
    """
    A worktree of *repository*, on a new branch that begins at *base*.

    The agent runs in it, unless its spec names a directory. In the agent's command it is
    ``{worktree}`` and its branch ``{branch}``; in its environment ``WORKTREE`` and
    ``BRANCH``. With a *name*, which a second one needs, these are ``{name}``,
    ``{name_branch}``, ``NAME`` and ``NAME_BRANCH``, and the agent does not run in it. The
    branch is called *prefix* plus the agent's id.

    The undo keeps what would be lost otherwise. The report's outcome is then ``left``, and
    ``kept`` says what and where:

    - the worktree and its branch, if there are uncommitted changes (also of files that are marked
      with ``skip-worktree`` or ``assume-unchanged``), files that are neither added nor ignored,
      ignored files that match *keep_ignored*, submodules, commits on no branch, an unfinished
      rebase or merge, or a ``git worktree lock``;
    - the worktree and its branch, if it was moved, or if its directory and the repository no
      longer lead to each other: git's answers would be about something else;
    - the branch, if it has commits that no other branch, remote branch or tag has. Branches
      with the same *prefix* do not count: they belong to other agents, and may go;
    - stashes that were made on the branch: they are in the repository's list of stashes.

    Other ignored files are removed; the report's ``ignored`` names up to 20 of them.
    *keep_ignored* has pathspecs of git, such as ``"*.env"`` or ``"results/"``.

    Each git command may take *timeout_s*, hooks of the checkout included. The undo runs no
    hook, filter or other program of the repository: see :class:`.git.PassiveGit`.
    """

    receipt_type = GitWorktreeReceipt
    #: Variables that the spec must not set: with them, git would work elsewhere.
    excluded_variables: ClassVar[frozenset[str]] = GIT_PLACES

    repository: str | os.PathLike[str] = "."
    base: str = attrs.field(default="HEAD", kw_only=True)
    prefix: str = attrs.field(default="agent/", kw_only=True)
    timeout_s: float = attrs.field(default=120.0, kw_only=True)
    keep_ignored: tuple[str, ...] = attrs.field(default=(), converter=_to_pathspecs, kw_only=True)

    def plan(self, ctx: Context) -> GitWorktreeReceipt:
        """
        Find the repository and the commit, and fix the names of worktree and branch.

        Raises:
            InvalidInput: There is no such repository, no such commit, or no git.
        """
        if _PREFIX.fullmatch(self.prefix) is None:
            raise InvalidInput(
                f"{self.prefix!r:.60} cannot start a branch's name", hint="for example: agent/"
            )
        git = Git(self.timeout_s)
        where = paths.absolute("the repository", self.repository, expand_user=True)
        commit = ("--verify", "--quiet", "--end-of-options", f"{self.base}^{{commit}}")
        try:
            common = git("rev-parse", "--path-format=absolute", "--git-common-dir", cwd=where)
            base = git("rev-parse", *commit, cwd=where)
        except (GitError, OSError) as error:
            raise InvalidInput(
                f"no worktree can be created from {where} at {self.base!r:.80}: {error}",
                hint="name a git repository and a commit in it",
            ) from error
        own = "-".join(filter(None, (ctx.saga_id, self.name)))
        return GitWorktreeReceipt(
            repository=common.rstrip("\n"),
            path=str(self.saga_dir(ctx) / own),
            branch=f"{self.prefix}{own}",
            base=base.strip(),
            shared=self.prefix,
            timeout_s=self.timeout_s,
            keep_ignored=self.keep_ignored,
        )

    def do(self, receipt: GitWorktreeReceipt) -> GitWorktreeReceipt:
        """Create worktree and branch, in one call."""
        private_dir.make_private(Path(receipt.path).parent)
        with locked_git(receipt.lock, timeout_s=receipt.timeout_s, create=True) as git:
            add = ("worktree", "add", "--quiet", "--no-track", "-b", receipt.branch)
            git(f"--git-dir={receipt.repository}", *add, receipt.path, receipt.base)
        return attrs.evolve(receipt, made=True)

    def provide(self, receipt: GitWorktreeReceipt) -> Provision:
        """Return path and branch, as variables and placeholders; the path is the agent's cwd."""
        path, branch = self.name or "worktree", f"{self.name}_branch".lstrip("_")
        return Provision(
            environment={path.upper(): receipt.path, branch.upper(): receipt.branch},
            placeholders={path: receipt.path, branch: receipt.branch},
            cwd=None if self.name else receipt.path,
        )

    def verify(
        self, receipt: GitWorktreeReceipt, saga_id: str, labels: Mapping[str, Any]
    ) -> GitWorktreeReceipt:
        """
        Return the receipt, whose worktree and branch must be named after the saga.

        Raises:
            ReceiptRefused: They are not.
        """
        owner, own = naming_id(saga_id, labels), Path(receipt.path).name
        private_dir.check_place(receipt.path, owner)
        is_named = own == owner or own.startswith(f"{owner}-")
        is_branch = _PREFIX.fullmatch(receipt.shared) and receipt.branch == receipt.shared + own
        if not (is_named and is_branch and re.fullmatch("[0-9a-f]{4,64}", receipt.base)):
            raise ReceiptRefused(
                f"the worktree {own!r:.200} on the branch {receipt.branch!r:.200}, "
                f"from {receipt.base!r:.80}, is not one of {owner!r}"
            )
        return receipt

    def undo(self, receipt: GitWorktreeReceipt, _why: Unwind) -> Outcome:
        """Remove worktree and branch, or keep what would be lost and report where it is."""
        private_dir.make_usable(receipt.lock.parent)
        with locked_git(receipt.lock, timeout_s=receipt.timeout_s) as git:
            outcome = _Removal(receipt, git).run()
        receipt.lock.unlink(missing_ok=True)  # No process of this saga can still wait for it.
        private_dir.remove_if_empty(receipt.lock.parent)
        return outcome


class _Removal:
    """The removal of one worktree and its branch."""

    def __init__(self, receipt: GitWorktreeReceipt, git: Git) -> None:
        self._tree = receipt
        self._ref = f"refs/heads/{receipt.branch}"
        self._run_git = git
        self._git = PassiveGit(git, receipt.repository, receipt.repository)

    def run(self) -> Outcome:
        tree = self._tree
        if not private_dir.is_directory(Path(tree.repository).resolve()):
            if not durable.exists(tree.path):
                return Outcome.absent()
            gone = f"its repository {tree.repository} is gone"
            return Outcome.left(kept=f"worktree {tree.path}: {gone}", path=tree.path)
        existed = durable.exists(tree.path) or durable.exists(tree.entry)
        found = examine(tree, self._run_git) if tree.made else UnsavedWork(())
        stashes = self._stashes() if tree.made else []
        if found.work:
            path = found.path or tree.path
            kept = f"worktree {path} on branch {tree.branch}: {'; '.join(found.work)}"
            return self._keep([kept, *stashes], path=path)
        freed = self._remove_worktree()
        tip = self._git("for-each-ref", "--format=%(objectname)", self._ref).strip()
        branch, commits = self._remove_branch(tip) if tip else ([], 0)
        if branch or stashes:
            return self._keep([*branch, *stashes], commits=commits)
        facts = {"ignored": list(found.ignored)} if found.ignored else {}
        if existed or tip:
            return Outcome.undone(bytes_freed=freed, **facts)
        return Outcome.absent()

    def _keep(self, kept: Iterable[str], **facts: str | int) -> Outcome:
        tree = self._tree
        return Outcome.left(
            kept="; ".join(kept), branch=tree.branch, repository=tree.repository, **facts
        )

    def _remove_branch(self, tip: str) -> tuple[list[str], int]:
        """Delete the branch, or return why it is kept, and how many commits are only there."""
        agents = f"--exclude={self._tree.shared}*"
        known = (agents, "--branches", "--remotes", "--tags", self._tree.base)
        commits = int(self._git("rev-list", "--count", self._ref, "--not", *known))
        if commits or self._is_checked_out():
            why = f"{commits} commits that no other branch has" if commits else "checked out"
            kept = f"branch {self._tree.branch} in {self._tree.repository}: {why}"
            return [kept], commits
        self._git("update-ref", "-d", self._ref, tip)
        return [], 0

    def _is_checked_out(self) -> bool:
        """Return whether another worktree has the agent's branch."""
        listed = self._git("worktree", "list", "--porcelain")
        return f"branch {self._ref}" in listed.splitlines()

    def _stashes(self) -> list[str]:
        """Return descriptions of the stashes that were made on the branch."""
        if not self._git("for-each-ref", "refs/stash"):
            return []
        log = ("log", "--walk-reflogs", "--no-patch", "--format=%h %gd %gs", "refs/stash", "--")
        own = re.compile(rf"\S+ \S+ (WIP on|On) {re.escape(self._tree.branch)}: ")
        found = filter(own.match, self._git(*log).splitlines())
        return [f"stash in {self._tree.repository}: {line[:200]}" for line in found]

    def _remove_worktree(self) -> int:
        """Remove the directory and the repository's entry, complete or not."""
        path, entry = self._tree.location, self._tree.entry
        freed = remove_tree(path) if private_dir.is_directory(path) else 0
        if durable.exists(entry):
            remove_tree(entry)
            private_dir.remove_if_empty(entry.parent)
        return freed
