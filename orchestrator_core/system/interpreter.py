"""The Python that runs this library's own programs, such as the supervisor and the unwinder."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from orchestrator_core.exceptions import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterator

_NAMES = ("python", "pypy")  #: A part of the file name of every Python.


def find_python() -> str:
    """
    Return ``sys.executable``, or the Python of its environment if that is another program.

    In a program that embeds Python, such as uWSGI, ``sys.executable`` may be that program.
    A supervisor that it started would never answer.

    Raises:
        InvalidInput: No Python was found.
    """
    for path in _candidates():
        if _is_python(path):
            return path
    raise InvalidInput(
        f"sys.executable is {sys.executable!r}, which is no Python, and {sys.prefix}/bin has none",
        hint="set sys.executable to the Python that has this package, before a deployment",
    )


def _candidates() -> Iterator[str]:
    yield sys.executable or ""
    yield f"{sys.prefix}/bin/python{sys.version_info[0]}.{sys.version_info[1]}"
    yield f"{sys.prefix}/bin/python{sys.version_info[0]}"


def _is_python(path: str) -> bool:
    is_named_so = any(name in os.path.basename(path).lower() for name in _NAMES)  # noqa: PTH119
    return is_named_so and os.path.isfile(path) and os.access(path, os.X_OK)  # noqa: PTH113
