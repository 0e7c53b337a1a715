"""Checks of the root itself: its place, its permissions, its settings."""

from __future__ import annotations

import itertools
import os
import shlex
import stat
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from orchestrator_core.model import settings
from orchestrator_core.operations import alerts
from orchestrator_core.operations.doctor.check import Check, Environment, shorten_list
from orchestrator_core.system import tree

if TYPE_CHECKING:
    from collections.abc import Iterator

_MAX_SCANNED = 20_000  #: Files.
_MAX_NAMED = 10  #: Files in a remedy.

TRIAL_PREFIX = ".doctor-"  #: Of the private directory in which another check tries its calls.

#: Agents write here without restrictions.
_UNCHECKED = frozenset({"output"})
_HELD = "held"  #: What steps hold, such as worktrees: each agent's directory protects its own.


# --- its place --------------------------------------------------------------------------------


def root_directory(environment: Environment) -> Check:
    """Report the root and the source of its path, and check that it can be used or created."""
    root = environment.root
    if root is None:
        remedy = "name a root: --root DIR, or set ORCHESTRATOR_ROOT"
        return Check.failed(environment.root_error, remedy)
    found = f"{root} (from {environment.chosen_by})"
    if os.path.isdir(root):  # noqa: PTH112 - see Environment.layout
        if os.access(root, os.R_OK | os.W_OK | os.X_OK):
            return Check.ok(found)
        remedy = f"as its owner: chmod u+rwx {shlex.quote(str(root))}"
        return Check.failed(f"{found}: this user cannot write to it", remedy)
    if os.path.lexists(root):
        return Check.failed(f"{found} is no directory", "choose another: --root DIR")
    above = existing_above(root)
    if not os.access(above, os.W_OK | os.X_OK):
        return Check.failed(
            f"{found} is not there, and cannot be created in {above}",
            f"choose another: --root DIR; or, as its owner: chmod u+wx {shlex.quote(str(above))}",
        )
    remedy = "is it the right one? the first command creates it"
    return Check.warning(f"{found} is not there yet", remedy)


def existing_above(path: Path) -> Path:
    """Return *path* or the nearest directory above it that exists."""
    return next((each for each in (path, *path.parents) if os.path.isdir(each)), Path("/"))  # noqa: PTH112 - see Environment.layout


# --- its permissions --------------------------------------------------------------------------


class _Problem(NamedTuple):
    found: str
    remedy: str
    is_failure: bool = True


_UNREADABLE = _Problem("cannot be read", "chmod u+rwx {}")
_FOREIGN_OWNER = _Problem("owned by another user, and not touched", "sudo chown {user} {}")
_LINK = _Problem("a symlink, which is not followed", "rm {}")
_WORLD_WRITABLE = _Problem("every user can write to it", "chmod go-rwx {}")
_NOT_PRIVATE = _Problem("open to others", "chmod go-rwx {}", is_failure=False)


def permissions(environment: Environment) -> Check:
    """Scan the root for foreign files, symlinks, and files that other users can access."""
    if environment.layout is None:
        return Check.ok("there is no root yet")
    entries = _scan(os.fspath(environment.layout.root))
    scanned = list(itertools.islice(entries, _MAX_SCANNED))
    paths: dict[_Problem, list[str]] = defaultdict(list)
    for path, status in scanned:
        if (problem := _problem_of(status)) is not None:
            paths[problem].append(path)
    checks = [_describe(problem, found) for problem, found in paths.items()]
    if next(entries, None) is not None:
        found = f"only the first {_MAX_SCANNED} files were checked"
        checks.append(Check.unknown(found, "orchestrator-core gc"))
    well = f"{len(scanned)} files and directories are owned by this user, and private"
    return Check.worst_of(checks, well=well)


def _scan(root: str) -> Iterator[tuple[str, os.stat_result | None]]:
    """Yield the path and status of all files; None is the status of what cannot be read."""
    yield root, os.lstat(root)
    errors: list[OSError] = []
    for directory, subdirectories, files in tree.walk(root, onerror=errors.append):
        # The checks run in parallel, and one of them creates files there.
        subdirectories[:] = [each for each in subdirectories if not each.startswith(TRIAL_PREFIX)]
        for name in (*subdirectories, *files):
            path = f"{directory}/{name}"
            try:
                yield path, os.lstat(path)
            except FileNotFoundError:
                continue  # Removed since the listing.
            except OSError:
                yield path, None
        subdirectories[:] = [name for name in subdirectories if name not in _UNCHECKED]
        if directory == f"{root}/{_HELD}":
            subdirectories[:] = [name for name in subdirectories if _is_open(f"{directory}/{name}")]
    for error in errors:
        if not isinstance(error, FileNotFoundError):
            yield error.filename, None


def _is_open(directory: str) -> bool:
    """Return whether other users can enter a directory, so that the modes below it matter."""
    try:
        return bool(os.lstat(directory).st_mode & 0o077)
    except OSError:
        return True


def _problem_of(status: os.stat_result | None) -> _Problem | None:
    if status is None:
        return _UNREADABLE
    if status.st_uid != os.geteuid():
        return _FOREIGN_OWNER
    if stat.S_ISLNK(status.st_mode):
        return _LINK
    if stat.S_ISSOCK(status.st_mode):
        return None  # tmux sets its socket's mode; the directory protects the socket.
    if status.st_mode & stat.S_IWOTH:
        return _WORLD_WRITABLE
    return _NOT_PRIVATE if status.st_mode & 0o077 else None


def _describe(problem: _Problem, paths: list[str]) -> Check:
    remedy = problem.remedy.format(shlex.join(paths[:_MAX_NAMED]), user=os.geteuid())
    if len(paths) > _MAX_NAMED:
        remedy += f" and so on: there are {len(paths)}"
    result = Check.failed if problem.is_failure else Check.warning
    return result(f"{problem.found}: {shorten_list(paths)}", remedy)


# --- its settings -----------------------------------------------------------------------------


def settings_file(environment: Environment) -> Check:
    """Check that the root's settings can be read, and that the alert command exists."""
    if environment.layout is None:
        return Check.ok("there is no root yet")
    root = environment.layout.root
    path, own = root / settings.NAME, settings.user_file()
    files = [each for each in (path, own) if each is not None and os.path.lexists(each)]
    if not files:
        return Check.ok(f"no {settings.NAME}: the defaults apply")
    command = settings.read(root).alerts.command
    pending = settings.unapproved(root)
    if pending:
        sections = ", ".join(f"[{name}]" for name in pending)
        return Check.warning(
            f"{sections} of {path} is not approved, and does not count",
            "orchestrator-core approve shows it, and with --yes approves it",
        )
    if command and alerts.find_program(command) is None:
        names = " and ".join(map(str, files))
        return Check.warning(
            f"{names}: {command[0]} is the command for alerts, and there is no such program",
            f"install it, or edit [alerts] command: ${{EDITOR:-vi}} {shlex.quote(str(files[0]))}",
        )
    return Check.ok(f"{' and '.join(map(str, files))} can be read")
