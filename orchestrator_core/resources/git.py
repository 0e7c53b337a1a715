"""
Git, asked by one process at a time: ours, or one that a dead owner of ours has left behind.

Who is killed in the middle of ``git worktree add`` leaves a git that goes on. So every git
holds the lock of its place, an open file that it inherits from us, until it has ended, with
all that its hooks have started. Whoever takes the lock next knows that nobody is at it.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from typing import TYPE_CHECKING

import attrs

from orchestrator_core.exceptions import CouldNotAsk, OrchestratorError
from orchestrator_core.system import locks

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_PATIENCE_S = 30.0  #: For a git that a dead owner has left behind.

#: What would lead git elsewhere: ``git rev-parse --local-env-vars`` lists them.
_LEADING_ELSEWHERE = (
    *("GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_COMMON_DIR", "GIT_CONFIG", "GIT_CONFIG_COUNT"),
    *("GIT_CONFIG_PARAMETERS", "GIT_DIR", "GIT_GRAFT_FILE", "GIT_IMPLICIT_WORK_TREE"),
    *("GIT_INDEX_FILE", "GIT_INTERNAL_SUPER_PREFIX", "GIT_NO_REPLACE_OBJECTS", "GIT_NAMESPACE"),
    *("GIT_OBJECT_DIRECTORY", "GIT_PREFIX", "GIT_REPLACE_REF_BASE", "GIT_SHALLOW_FILE"),
    "GIT_WORK_TREE",
)


class GitError(OrchestratorError):
    """Git did not do what was asked of it; the message has its own words."""

    code = "git-refused"


@attrs.frozen
class Git:
    """How to run git: with the lock of its place, if it changes anything."""

    timeout_s: float
    lock: int | None = None

    def __call__(self, *arguments: str, cwd: str | os.PathLike[str] | None = None) -> str:
        """
        Run git, and return what it says.

        Raises:
            GitError: It failed, is not installed, or did not end in time.
        """
        try:
            ran = subprocess.run(  # noqa: S603 - an argv of ours
                ["git", *arguments],  # noqa: S607 - whichever git the user has
                cwd=cwd,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                pass_fds=() if self.lock is None else (self.lock,),
                timeout=self.timeout_s,
                check=False,
            )
        except FileNotFoundError as error:
            raise GitError(f"git cannot be run: {error}", hint="is git installed?") from error
        except subprocess.TimeoutExpired as error:
            raise GitError(f"{_told(arguments)} did not end in {self.timeout_s:g} s") from error
        if ran.returncode:
            said = os.fsdecode(ran.stderr).strip() or f"exit status {ran.returncode}"
            raise GitError(f"{_told(arguments)}: {said}")
        return os.fsdecode(ran.stdout)

    def asks(self, *arguments: str, cwd: str | os.PathLike[str] | None = None) -> str | None:
        """Run git, and return what it says, in one line; None if it refuses."""
        with contextlib.suppress(GitError):
            return self(*arguments, cwd=cwd).strip()
        return None


@contextlib.contextmanager
def alone(lock: Path, *, timeout_s: float, make: bool = False) -> Iterator[Git]:
    """
    Be the only one who runs git on a place, whose lock file is *lock*.

    Without *make* a lock file that is not there is not made: nobody has run git there.

    Raises:
        CouldNotAsk: A git that somebody has left behind is at work, and does not end.
    """
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | (os.O_CREAT if make else 0)
    try:
        fd = os.open(lock, flags, 0o600)
    except FileNotFoundError:
        yield Git(timeout_s)
        return
    try:
        if not locks.lock_within(fd, _PATIENCE_S):
            raise CouldNotAsk(
                f"somebody's git, or a hook of it, is still at work on {lock.parent}",
                hint=f"see who has it open: fuser {lock}",
            )
        yield Git(timeout_s, fd)
    finally:
        os.close(fd)


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in _LEADING_ELSEWHERE}
    return {**kept, "LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0"}


def _told(arguments: tuple[str, ...]) -> str:
    words = [word for word in arguments if not word.startswith("-")]
    return f"git {' '.join(words[:2])}"
