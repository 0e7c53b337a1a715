"""
Git, run by one process at a time for each worktree.

A process that is killed during ``git worktree add`` leaves a git behind that goes on. So
every git inherits an open file with the lock of its worktree: the kernel keeps the lock
until that git, and all that its hooks have started, have exited. The next owner of the lock
therefore knows that no git works on the worktree.

After an agent's end, git runs as :class:`PassiveGit`: on the repository and the worktree that
the receipt names, whatever the worktree's own ``.git`` says, and without any program that a
configuration or an attribute names. An agent may have written all of them.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from typing import TYPE_CHECKING

import attrs

from orchestrator_core.exceptions import CouldNotAsk, OrchestratorError
from orchestrator_core.system import exit_status, locks
from orchestrator_core.system.inheritance import GIT_REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

_LOCK_TIMEOUT_S = 30.0  #: The wait for a git that a dead owner has left behind.


class GitError(OrchestratorError):
    """Git failed; the message is git's own."""

    code = "git-refused"


@attrs.frozen
class Git:
    """A way to run git; *lock* is an open, locked file that every git inherits."""

    timeout_s: float
    lock: int | None = None

    def __call__(
        self,
        *arguments: str,
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> str:
        """
        Run git with the variables *env*, and return its output.

        Raises:
            GitError: Git failed, is not installed, or did not exit within *timeout_s*.
            CouldNotAsk: This process cannot learn git's exit status.
        """
        exit_status.require("git")
        command = f"git {' '.join([word for word in arguments if not word.startswith('-')][:2])}"
        try:
            ran = subprocess.run(  # noqa: S603 - an argv of this library
                ["git", *arguments],  # noqa: S607 - the user's git
                cwd=cwd,
                env={**_environment(), **(env or {})},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                pass_fds=() if self.lock is None else (self.lock,),
                timeout=self.timeout_s,
                check=False,
            )
        except FileNotFoundError as error:
            raise GitError(f"git cannot be run: {error}", hint="install git") from error
        except subprocess.TimeoutExpired as error:
            raise GitError(f"{command} did not exit within {self.timeout_s:g} s") from error
        if ran.returncode:
            reason = os.fsdecode(ran.stderr).strip() or f"exit status {ran.returncode}"
            raise GitError(f"{command}: {reason}")
        return os.fsdecode(ran.stdout)


#: What a repository's configuration must not decide while git only looks: no program runs.
_PASSIVE = {
    "core.fsmonitor": "false",
    "core.hooksPath": os.devnull,
    "core.pager": "cat",
    "core.untrackedCache": "false",
    "log.showSignature": "false",
    "status.submoduleSummary": "false",
    "submodule.recurse": "false",
}
_FILTER = re.compile(r"filter\..*\.(clean|smudge|process|required)", re.DOTALL)


@attrs.frozen
class PassiveGit:
    """
    Git on exactly one repository, and on exactly one worktree if *worktree* is given.

    - Git reads no ``.git`` of a worktree: *directory* is its git directory, and *repository*
      the directory that it shares with the other worktrees.
    - No hook, filter, file system monitor, pager or transport runs, whatever is configured.
      A file that a filter would have to convert can count as changed.
    """

    git: Git
    repository: str
    directory: str
    worktree: str | None = None
    _overrides: dict[str, str] = attrs.field(factory=dict, init=False, repr=False)

    def __call__(self, *arguments: str) -> str:
        """
        Run git, and return its output.

        Raises:
            GitError: As for :class:`Git`.
        """
        if not self._overrides:
            self._overrides.update(_PASSIVE)
            names = self._run("config", "--list", "--name-only", "-z").split("\0")
            for name in filter(_FILTER.fullmatch, names):
                self._overrides[name] = "false" if name.endswith(".required") else ""
        return self._run(*arguments)

    def _run(self, *arguments: str) -> str:
        env = {
            "GIT_ALLOW_PROTOCOL": "none",
            "GIT_COMMON_DIR": self.repository,
            "GIT_CONFIG_COUNT": str(len(self._overrides)),
            "GIT_DIR": self.directory,
            "GIT_NO_LAZY_FETCH": "1",
        }
        for index, (name, value) in enumerate(self._overrides.items()):
            env |= {f"GIT_CONFIG_KEY_{index}": name, f"GIT_CONFIG_VALUE_{index}": value}
        if self.worktree is not None:
            env["GIT_WORK_TREE"] = self.worktree
        return self.git(*arguments, cwd=self.worktree or "/", env=env)


@contextlib.contextmanager
def locked_git(lock: Path, *, timeout_s: float, create: bool = False) -> Iterator[Git]:
    """
    Hold the lock file *lock* for a ``with`` block, which gets a git that inherits the lock.

    Without *create*, a missing lock file means that no git has run there; the git then needs
    no lock.

    Raises:
        CouldNotAsk: A git that another process left behind is still at work.
    """
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | (os.O_CREAT if create else 0)
    try:
        fd = os.open(lock, flags, 0o600)
    except FileNotFoundError:
        yield Git(timeout_s)
        return
    try:
        if not locks.lock_within(fd, _LOCK_TIMEOUT_S):
            raise CouldNotAsk(
                f"a git of another process, or its hook, is still at work on {lock.parent}",
                hint=f"see which process has it open: fuser {lock}",
            )
        yield Git(timeout_s, fd)
    finally:
        os.close(fd)


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in GIT_REPOSITORY}
    return {**kept, "LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0"}
