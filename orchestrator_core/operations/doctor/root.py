"""Checks of the root itself: which one it is, who may do what in it, what it was told."""

from __future__ import annotations

import itertools
import os
import shlex
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from orchestrator_core.model import settings
from orchestrator_core.operations import alerts
from orchestrator_core.operations.doctor.check import (
    Answer,
    Environment,
    failed,
    ok,
    shorten_list,
    unknown,
    warning,
    worst_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

_MOST = 20_000  #: So many files are looked at.

#: Agents write here, as they like.
_AGENTS_OWN = frozenset({"output"})


# --- which one --------------------------------------------------------------------------------


def root_directory(subject: Environment) -> Answer:
    """Tell which root it is and what says so, and see whether it can be used, or made."""
    root = subject.root
    if root is None:
        return failed(subject.trouble, "name a root: --root DIR, or set ORCHESTRATOR_ROOT")
    found = f"{root} (from {subject.chosen_by})"
    if os.path.isdir(root):  # noqa: PTH112 - as below
        if os.access(root, os.R_OK | os.W_OK | os.X_OK):
            return ok(found)
        return failed(
            f"{found}: we cannot write to it", f"as its owner: chmod u+rwx {shlex.quote(str(root))}"
        )
    if os.path.lexists(root):
        return failed(f"{found} is no directory", "choose another: --root DIR")
    above = existing_above(root)
    if not os.access(above, os.W_OK | os.X_OK):
        return failed(
            f"{found} is not there, and cannot be made in {above}",
            f"choose another: --root DIR; or, as its owner: chmod u+wx {shlex.quote(str(above))}",
        )
    return warning(f"{found} is not there yet", "is it the right one? the first command makes it")


def existing_above(path: Path) -> Path:
    """Return the nearest directory above *path* that exists, or itself."""
    # Not Path.is_dir, which raises where a directory may not be searched.
    return next((each for each in (path, *path.parents) if os.path.isdir(each)), Path("/"))  # noqa: PTH112


# --- who may do what in it ----------------------------------------------------------------------


def permissions(subject: Environment) -> Answer:
    """Look through the root for what is not ours, leads out of it, or is open to others."""
    if subject.layout is None:
        return ok("there is nothing yet")
    entries = _entries(subject.layout.root)
    seen = list(itertools.islice(entries, _MOST))
    troubles = [trouble for entry in seen if (trouble := _trouble(entry)) is not None]
    answers = [
        _answer(kind, [each.path for each in troubles if each.kind is kind])
        for kind in dict.fromkeys(each.kind for each in troubles)
    ]
    if next(entries, None) is not None:
        answers.append(
            unknown(f"only the first {_MOST} files were looked at", "orchestrator-core gc")
        )
    return worst_of(answers, well=f"{len(seen)} files and directories are ours, and private")


@attrs.frozen
class _Entry:
    path: str
    status: os.stat_result | None  #: None: it cannot be looked at.


def _entries(root: Path) -> Iterator[_Entry]:
    waiting = [os.fspath(root)]
    yield _Entry(waiting[0], os.lstat(root))
    while waiting:
        directory = waiting.pop()
        try:
            names = os.listdir(directory)  # noqa: PTH208 - many, and names are enough
        except FileNotFoundError:
            continue
        except OSError:
            yield _Entry(directory, None)
            continue
        for name in names:
            path = f"{directory}/{name}"
            try:
                status = _status(path)
            except FileNotFoundError:
                continue  # Gone by now.
            yield _Entry(path, status)
            if status is not None and stat.S_ISDIR(status.st_mode) and name not in _AGENTS_OWN:
                waiting.append(path)


def _status(path: str) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except FileNotFoundError:
        raise
    except OSError:
        return None


@attrs.frozen
class _Kind:
    what: str
    remedy: str
    is_failure: bool


_CLOSED = _Kind("cannot be looked at", "chmod u+rwx {}", is_failure=True)
_STRANGE = _Kind("another user's, and not touched", "sudo chown {user} {}", is_failure=True)
_LINK = _Kind("a symlink, which is not followed", "rm {}", is_failure=True)
_WORLD = _Kind("every user can write to it", "chmod go-rwx {}", is_failure=True)
_OPEN = _Kind("open to others", "chmod go-rwx {}", is_failure=False)


@attrs.frozen
class _Trouble:
    kind: _Kind
    path: str


def _trouble(entry: _Entry) -> _Trouble | None:
    kind = _kind_of(entry.status)
    return None if kind is None else _Trouble(kind, entry.path)


def _kind_of(status: os.stat_result | None) -> _Kind | None:
    if status is None:
        return _CLOSED
    if status.st_uid != os.geteuid():
        return _STRANGE
    if stat.S_ISLNK(status.st_mode):
        return _LINK
    if stat.S_ISSOCK(status.st_mode):
        return None  # tmux has its own way with its modes; the directory is what guards it.
    if status.st_mode & stat.S_IWOTH:
        return _WORLD
    return _OPEN if status.st_mode & 0o077 else None


def _answer(kind: _Kind, paths: list[str]) -> Answer:
    found = f"{kind.what}: {shorten_list(paths)}"
    remedy = kind.remedy.format(shlex.join(paths[:10]), user=os.geteuid())
    if len(paths) > 10:  # noqa: PLR2004 - more than anybody wants to read
        remedy += f" and so on: there are {len(paths)}"
    return failed(found, remedy) if kind.is_failure else warning(found, remedy)


# --- what it was told -----------------------------------------------------------------------------


def settings_file(subject: Environment) -> Answer:
    """See whether the root's settings, if it has any, can be read."""
    if subject.layout is None:
        return ok("there is no root yet")
    path = subject.layout.root / settings.NAME
    if not os.path.lexists(path):
        return ok(f"no {settings.NAME}: the defaults hold")
    command = settings.read(subject.layout.root).alerts.command
    if command and alerts.program(command) is None:
        return warning(
            f"{path} names {command[0]} to tell of failed cleanups, and there is no such program",
            f"install it, or mend [alerts] command: ${{EDITOR:-vi}} {shlex.quote(str(path))}",
        )
    return ok(f"{path} can be read")
