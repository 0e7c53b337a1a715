"""
The work in an agent's worktree that is nowhere else, as far as it can be known.

Git's answers are used only if they are about exactly this worktree: its directory and its
entry in the repository must still lead to each other. What git does not show is looked for:
files that are marked as unchanged, unfinished operations, submodules. Whatever cannot be
known counts as work.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from orchestrator_core.resources import private_dir
from orchestrator_core.resources.git import Git, GitError, PassiveGit
from orchestrator_core.system import durable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from orchestrator_core.resources.worktree import GitWorktreeReceipt

_OPERATIONS = {
    "rebase-merge": "rebase",
    "rebase-apply": "rebase, or git am",
    "MERGE_HEAD": "merge",
    "MERGE_AUTOSTASH": "merge",
    "CHERRY_PICK_HEAD": "cherry-pick",
    "REVERT_HEAD": "revert",
    "sequencer": "cherry-pick or revert",
    "BISECT_LOG": "bisection",
}
_GITLINK = "160000"  #: The mode of a submodule in the index.
_CHUNK = 1 << 20
_POINTER_SIZE = 1024  #: No pointer is longer.
_POINTER = re.compile(
    r"version https://git-lfs\.github\.com/spec/v1\n(.+\n)*?"
    r"oid sha256:(?P<oid>[0-9a-f]{64})\nsize (?P<size>\d+)\n"
)
_MAX_POINTERS = 200  #: With more changed files, git is believed.
_SHA1 = 40  #: The length of an id; SHA-256 has more.
_MAX_NAMED = 20  #: Ignored files in a report.
_MAX_SHOWN = 3  #: Names in one description.


class UnsavedWork(NamedTuple):
    """What an examination has found."""

    work: tuple[str, ...]  #: Descriptions of the work; empty if there is none.
    ignored: tuple[str, ...] = ()  #: Ignored files and directories, at most 20: not work.
    path: str = ""  #: Where the worktree is, if it was moved.


def examine(tree: GitWorktreeReceipt, git: Git) -> UnsavedWork:
    """Return the unsaved work of a worktree in which an agent may have worked."""
    try:
        path = tree.location
        if not durable.exists(path):
            return _examine_entry(tree, git)
        doubt = _doubt(tree)
        return UnsavedWork((doubt,)) if doubt else _Worktree(tree, git).examine()
    except GitError as error:
        return UnsavedWork((f"git cannot read it ({error})",))


def _doubt(tree: GitWorktreeReceipt) -> str:
    """Return why git's answers may be about something else; empty if they are not."""
    path, entry = tree.location, tree.entry
    if not private_dir.is_directory(path):
        return "it is no directory any more"
    if not private_dir.is_directory(entry):
        return "the repository does not know it any more"
    if not _leads_to(path / ".git", entry, prefix="gitdir: "):
        return "its .git is not the file that git has made"
    if not _leads_to(entry / "gitdir", path / ".git"):
        return "the repository's entry of it leads elsewhere"
    return ""


def _leads_to(file: Path, target: Path, *, prefix: str = "") -> bool:
    """Return whether *file* is a regular file that holds the path *target*."""
    named = _path_in(file, prefix)
    if named is None:
        return False
    return os.path.realpath(named) == os.path.realpath(target)


def _path_in(file: Path, prefix: str = "") -> str | None:
    """Return the absolute path that a file of git holds, if it holds one."""
    try:
        if not stat.S_ISREG(file.lstat().st_mode):
            return None
    except FileNotFoundError:
        return None
    text = os.fsdecode(file.read_bytes()[:8192])
    if not text.startswith(prefix) or not text.strip():
        return None
    return os.path.normpath(file.parent / text.removeprefix(prefix).rstrip("\n"))


def _examine_entry(tree: GitWorktreeReceipt, git: Git) -> UnsavedWork:
    """Examine what the repository holds of a worktree whose directory is not in its place."""
    if not durable.exists(tree.entry):
        return UnsavedWork(())
    git_file = _path_in(tree.entry / "gitdir")
    if git_file is None or not _leads_to(tree.entry / "gitdir", tree.location / ".git"):
        where = str(Path(git_file).parent) if git_file else ""
        return UnsavedWork((f"it was moved to {where or 'an unknown place'}",), path=where)
    entry = _Worktree(tree, git, is_gone=True)
    found = [*entry.operations(), *entry.commits()]
    if entry.git("diff-index", "--cached", "--name-only", "-z", "HEAD"):
        found.append("changes in its index, and its directory is gone")
    return UnsavedWork(tuple(found))


class _Worktree:
    """A worktree whose directory and entry lead to each other."""

    def __init__(self, tree: GitWorktreeReceipt, git: Git, *, is_gone: bool = False) -> None:
        self._tree = tree
        place = None if is_gone else str(tree.location)
        self.git = PassiveGit(git, tree.repository, str(tree.entry), place)

    def examine(self) -> UnsavedWork:
        status = (*("status", "--porcelain", "-z", "--untracked-files=normal", "--no-renames"),)
        lines = self.git(*status, "--ignored=traditional", "--ignore-submodules=all").split("\0")
        ignored = [line[3:] for line in lines if line.startswith("!! ")]
        changed = [line for line in lines if line and not line.startswith("!! ")]
        if len(changed) <= _MAX_POINTERS:
            changed = [line for line in changed if not self._is_large_file(line)]
        changes = len(changed)
        found = [f"{changes} changes that are not committed"] if changes else []
        found += [*self._index(), *self._wanted(), *self.operations(), *self.commits()]
        return UnsavedWork(tuple(found), tuple(ignored[:_MAX_NAMED]))

    def _is_large_file(self, line: str) -> bool:
        """
        Return whether a changed file is what its pointer of Git LFS stands for.

        Git cannot know it without the filter, and compares contents also when nothing changed.
        """
        name = line[3:]
        path, index_entry = self._tree.location / name, f":{name}"
        if not line.startswith(" M ") or not stat.S_ISREG(path.lstat().st_mode):
            return False
        if int(self.git("cat-file", "-s", index_entry)) > _POINTER_SIZE:
            return False
        pointer = _POINTER.match(self.git("cat-file", "blob", index_entry))
        if pointer is None or path.stat().st_size != int(pointer["size"]):
            return False
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == pointer["oid"]

    def _index(self) -> Iterator[str]:
        """Yield the work that the index hides from ``git status``."""
        hidden, modules = [], []
        for line in self.git("ls-files", "-v", "-s", "-z").split("\0"):
            if not line:
                continue
            facts, _, name = line.partition("\t")
            tag, mode, blob, _stage = facts.split(" ")
            path = self._tree.location / name
            if mode == _GITLINK:
                modules += [name] if _has_entries(path) else []
            elif (tag.islower() or tag == "S") and durable.exists(path) and _differs(path, blob):
                hidden.append(name)
        if hidden:
            yield f"changes that git is set to overlook: {_shortened(hidden)}"
        if modules or _has_entries(self._tree.entry / "modules"):
            named = f" ({_shortened(modules)})" if modules else ""
            yield f"submodules, whose commits are kept with it{named}"

    def _wanted(self) -> Iterator[str]:
        """Yield the ignored files that count as work."""
        if self._tree.keep_ignored:
            others = ("ls-files", "--others", "--ignored", "--exclude-standard", "-z")
            names = self.git(*others, "--", *self._tree.keep_ignored).split("\0")
            if found := [name for name in names if name]:
                yield f"ignored files that are wanted: {_shortened(found)}"

    def operations(self) -> Iterator[str]:
        """Yield what has been begun and not finished, or reserved."""
        entry = self._tree.entry
        begun = [what for name, what in _OPERATIONS.items() if durable.exists(entry / name)]
        if begun:
            yield f"an unfinished {begun[0]}"
        if durable.exists(entry / "locked"):
            yield "it is locked (git worktree lock)"

    def commits(self) -> Iterator[str]:
        """Yield the commits that are on no branch and no tag."""
        own = ("HEAD", "--glob=refs/worktree/*")
        known = ("--branches", "--remotes", "--tags", self._tree.base)
        if int(self.git("rev-list", "--count", *own, "--not", *known)):
            yield "commits on no branch"


def _has_entries(directory: Path) -> bool:
    return private_dir.is_directory(directory) and any(directory.iterdir())


def _differs(path: Path, blob: str) -> bool:
    """Return whether a file may differ from a blob; a conversion counts as a difference."""
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        data = os.fsencode(path.readlink())
        return _blob_id(blob, len(data), [data]) != blob
    if not stat.S_ISREG(status.st_mode):
        return True
    with path.open("rb") as file:
        chunks = iter(lambda: file.read(_CHUNK), b"")
        return _blob_id(blob, status.st_size, chunks) != blob


def _blob_id(like: str, size: int, chunks: Iterable[bytes]) -> str:
    """Return the id of a blob, by the hash that the id *like* has."""
    made = hashlib.new("sha1" if len(like) == _SHA1 else "sha256", usedforsecurity=False)
    made.update(b"blob %d\0" % size)
    for chunk in chunks:
        made.update(chunk)
    return made.hexdigest()


def _shortened(names: list[str]) -> str:
    more = f" and {len(names) - _MAX_SHOWN} more" if len(names) > _MAX_SHOWN else ""
    return ", ".join(names[:_MAX_SHOWN]) + more
