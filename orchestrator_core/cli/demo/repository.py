"""What the demonstration's agents work on: a real directory, a git repository if possible."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import orchestrator_core
from orchestrator_core.exceptions import InvalidInput


def choose_directory(given: str | None, place: Path) -> Path:
    """
    Return the directory to read: the given one, the repository we are in, or a new one.

    A new one is a repository of this package's own sources, made in *place*.
    Without git it is a plain directory.

    Raises:
        InvalidInput: The given one is no directory.
    """
    if given is not None:
        directory = Path(given).absolute()
        if not directory.is_dir():
            raise InvalidInput(f"{directory} is not a directory", hint="name one, or none at all")
        return directory
    top = _git(Path.cwd(), "rev-parse", "--show-toplevel")
    return Path(top) if top and Path(top).is_dir() else _make(place / "repository")


def _make(directory: Path) -> Path:
    """Make a small repository: each part of this package is one commit."""
    source = Path(orchestrator_core.__file__).parent
    directory.mkdir()
    _git(directory, "init", "--quiet")
    for part in sorted(source.iterdir()):
        if part.is_dir() and part.name != "__pycache__":
            shutil.copytree(
                part, directory / part.name, ignore=shutil.ignore_patterns("__pycache__")
            )
        elif part.suffix == ".py":
            shutil.copy(part, directory)
        else:
            continue
        _git(directory, "add", "--all")
        _git(directory, "commit", "--quiet", "--message", f"Add {part.name}")
    return directory


def _git(directory: Path, *arguments: str) -> str:
    """Return what git says; nothing, if it fails or is not there."""
    who = ("-c", "user.name=The demonstration", "-c", "user.email=demo@localhost")
    options = (*who, "-c", "commit.gpgsign=false", "-c", "gc.auto=0")
    try:
        asked = subprocess.run(
            ["git", *options, *arguments],
            cwd=directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        return ""
    return asked.stdout.strip() if asked.returncode == 0 else ""
