"""
The import path of this library's own programs, which run where agents write files.

A program that a user runs imports also from the directory of its script, from the working
directory and from ``PYTHONPATH``. An agent may write there, and ``msgspec.py`` in such a
directory would run in every later process. So the unwinder and its like run isolated: they
import from the interpreter's own directories and from :func:`own_places`, and from nowhere
else.
"""

from __future__ import annotations

import functools
import os
import site
import sys
from importlib.machinery import PathFinder
from typing import TYPE_CHECKING

from orchestrator_core.system.interpreter import find_python

if TYPE_CHECKING:
    from collections.abc import Iterable

_HOME = os.path.abspath(__file__).rsplit("/", 3)[0]  # noqa: PTH100 - no symlink is resolved

#: The distributions that pyproject.toml names.
_NEEDED = ("attr", "attrs", "libtmux", "msgspec", "portalocker", "psutil", "structlog")

#: Adds the directories before "--" to the path, behind all others, and runs the command line.
_BOOTSTRAP = (
    "import sys; end = sys.argv.index('--'); "
    "sys.path += [each for each in sys.argv[1:end] if each not in sys.path]; "
    "del sys.argv[1:end + 1]; "
    "from orchestrator_core.cli import run; run()"
)

#: Exits with 0 if the module in the first argument is found; a package above it is imported.
_SEARCH = (
    "import sys, importlib.util; sys.path += sys.argv[2:]; "
    "sys.exit(importlib.util.find_spec(sys.argv[1]) is None)"
)


def isolated_command(*arguments: str, python: str | None = None) -> list[str]:
    """
    Return the argv of ``orchestrator-core`` with *arguments*, importing from nowhere else.

    ``-I``: no ``PYTHON*`` variable, no script's or working directory. *python* runs it instead
    of :func:`find_python`'s.
    """
    return [python or find_python(), "-I", "-c", _BOOTSTRAP, *own_places(), "--", *arguments]


@functools.cache
def own_places() -> tuple[str, ...]:
    """
    Return the absolute directories in which this package and what it needs are.

    A directory that agents may write to is among them only if what is needed is nowhere else.
    """
    searched = [*dict.fromkeys([*_site_directories(), _HOME, *_trusted(), *_untrusted()])]
    found = {_HOME: None}
    for name in _NEEDED:
        place = next((each for each in searched if _has(each, name)), None)
        if place is not None:
            found[place] = None
    return tuple(found)


@functools.cache
def is_importable(module: str, places: tuple[str, ...] = ()) -> bool:
    """Return whether an isolated process that also imports from *places* finds *module*."""
    import subprocess  # noqa: PLC0415 - for the few that declare modules

    command = [find_python(), "-I", "-c", _SEARCH, module, *own_places(), *places]
    searched = subprocess.run(  # noqa: S603 - an argv of this library
        command, cwd="/", stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    return searched.returncode == 0


def extend(places: Iterable[str]) -> None:
    """Let this process import from *places* too, after all others."""
    sys.path.extend(each for each in places if each not in sys.path)


def _site_directories() -> list[str]:
    user = [site.getusersitepackages()] if site.ENABLE_USER_SITE else []
    return [*site.getsitepackages(), *user]


def _trusted() -> list[str]:
    return [each for each in sys.path if each.startswith(os.sep) and each not in _untrusted()]


def _untrusted() -> list[str]:
    """Return the directory of the script, and the working directory."""
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    scripts = [] if script is None else [os.path.dirname(os.path.abspath(script))]  # noqa: PTH100, PTH120
    try:
        return [*scripts, os.getcwd()]  # noqa: PTH109 - a string is wanted
    except OSError:  # The working directory was removed.
        return scripts


def _has(place: str, name: str) -> bool:
    spec = PathFinder.find_spec(name, [place])
    return spec is not None and spec.origin is not None
