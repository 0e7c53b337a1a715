"""
The effects of code under test: counted, and a crash before or after any of them.

An effect is a call that changes something outside the caller: a write, a rename, a file
opened for writing, a signal, a started program, a call of a fake world. Calls of :mod:`os`,
:func:`open`, :mod:`subprocess` and :mod:`signal` are seen; calls inside an extension are not.

A fake world is in the memory of the process under test, so that process cannot be killed.
:class:`CrashAt` has the same result: from one effect on, no effect happens, whatever ``except``
and ``finally`` do. Files keep what was written to them, without buffers, and locks are released.
"""

from __future__ import annotations

import builtins
import contextlib
import fcntl
import io
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from types import ModuleType

    from orchestrator_core.testing.fake_terminal import FakeTerminal

_File = tuple[int, int]  #: Device and inode.

_CALLS: dict[ModuleType, tuple[str, ...]] = {
    os: (
        *("open", "write", "pwrite", "fsync", "rename", "replace", "link", "unlink", "remove"),
        *("mkdir", "rmdir", "mkfifo", "symlink", "truncate", "ftruncate", "chmod", "fchmod"),
        *("kill", "killpg"),
    ),
    fcntl: ("flock",),
    io: ("open",),
    builtins: ("open",),
}
if sys.platform == "linux":
    _CALLS[signal] = ("pidfd_send_signal",)

#: The calls of a fake world that change it, or ask for living processes.
FAKE_CALLS = frozenset(
    {
        *("start", "kill", "inspect", "sessions", "processes.terminate_all"),
        *("processes.signal", "processes.identify", "processes.is_alive"),
    }
)

OPEN_FILE = "open()"  #: The call that opens a file object. Later writes to it are not seen.


def _is_byte_code(args: tuple[object, ...]) -> bool:
    """Return whether a call is about the cache of an import, which is no effect of the code."""
    path = args[0] if args else None
    return isinstance(path, str | os.PathLike) and "__pycache__" in str(path)


class Effects:
    """
    Counts the effects of the code under test, while it is entered.

    Subclasses override :meth:`on_effect`, which may raise. With a *terminal*, calls of its world
    are effects, too. Calls by the world itself, and by threads that were there before, are none.
    """

    calls: ClassVar = _CALLS

    def __init__(self, terminal: FakeTerminal | None = None) -> None:
        self.names: list[str] = []  #: The effects so far, in order.
        self._world = None if terminal is None else terminal._world  # noqa: SLF001 - same package
        self._patches = contextlib.ExitStack()
        self._other_threads: set[int | None] = set()

    def on_effect(self, number: int, name: str, when: str) -> None:
        """Let effect *number* happen, or raise. *when* is "before" or "after"."""

    def is_under_test(self) -> bool:
        """Return whether the caller is the code under test."""
        if threading.get_ident() in self._other_threads:
            return False
        return self._world is None or not self._world.is_world_call()

    def __enter__(self) -> Self:
        self._other_threads = {thread.ident for thread in threading.enumerate()}
        self._other_threads.discard(threading.get_ident())
        for module, names in self.calls.items():
            for name in names:
                self._wrap(module, name)
        self._wrap(subprocess.Popen, "__init__", label="Popen")
        if self._world is not None:
            self._replace(self._world, "observe", self._observe)
        return self

    def __exit__(self, *error: object) -> None:
        self._patches.close()

    def _replace(self, place: Any, name: str, stand_in: object) -> None:  # noqa: ANN401 - a module, a class
        self._patches.callback(setattr, place, name, getattr(place, name))
        setattr(place, name, stand_in)

    def _wrap(self, place: Any, name: str, label: str = "") -> None:  # noqa: ANN401 - as above
        original = getattr(place, name)
        opens, is_file = name == "open", place in (io, builtins)
        may_create = _may_create_file if is_file else _may_create
        label = OPEN_FILE if is_file else label or name

        def call(*args: Any, **how: Any) -> Any:  # noqa: ANN401 - as the original's
            if not self.is_under_test() or _is_byte_code(args):
                return original(*args, **how)
            is_effect = not opens or may_create(args, how)
            with self.effect(_describe(label, args)) if is_effect else contextlib.nullcontext():
                result = original(*args, **how)
                if opens:
                    self.track_open(result)
                return result

        self._replace(place, name, call)

    def _observe(self, name: str) -> AbstractContextManager[None]:
        """Surround a call of the fake world."""
        is_effect = name in FAKE_CALLS and self.is_under_test()
        return self.effect(name) if is_effect else contextlib.nullcontext()

    def track_open(self, result: io.IOBase | int) -> None:
        """Notice a file or a descriptor that the code under test has opened."""

    @contextlib.contextmanager
    def effect(self, name: str) -> Iterator[None]:
        """Count the block as one effect, and call :meth:`on_effect` before and after it."""
        number = len(self.names)
        self.names.append(name)
        self.on_effect(number, name, "before")
        try:
            yield
        finally:
            self.on_effect(number, name, "after")


class CrashedError(BaseException):
    """Raised instead of every effect after the crash."""


class CrashAt(Effects):
    """
    A crash before or after effect *number*; none if the number is negative.

    A lock is no effect here: the kernel releases the locks of a dead process.

    Attributes:
        crashed: Whether the crash has happened.
    """

    calls: ClassVar = {module: names for module, names in _CALLS.items() if module is not fcntl}

    def __init__(self, terminal: FakeTerminal | None, number: int, when: str = "before") -> None:
        super().__init__(terminal)
        self.crashed = False
        self._point = (number, when)
        self._fds: dict[int, _File] = {}
        self._files: list[io.IOBase] = []

    def on_effect(self, number: int, _name: str, when: str) -> None:
        """Crash, or raise because the crash has happened."""
        if not self.crashed and (number, when) == self._point:
            self._crash()
        if self.crashed:
            raise CrashedError

    def track_open(self, result: io.IOBase | int) -> None:
        """Remember what the kernel would close after the crash."""
        if isinstance(result, int):
            self._fds[result] = _file(result)
        else:
            self._files.append(result)
            self._fds.pop(result.fileno(), None)  # The file object closes it.

    def __enter__(self) -> Self:
        close = os.close

        def closed(fd: int) -> None:
            self._fds.pop(fd, None)
            close(fd)

        self._patches.callback(self._close_files)  # After all calls are restored.
        self._replace(os, "close", closed)
        return super().__enter__()

    def _close_files(self) -> None:
        """After a crash, close what was open."""
        for fd, file in self._fds.items() if self.crashed else ():
            with contextlib.suppress(OSError):
                if _file(fd) == file:  # The number may belong to another file by now.
                    os.close(fd)
        for opened in self._files if self.crashed else ():
            with contextlib.suppress(OSError, ValueError):
                opened.close()

    def _crash(self) -> None:
        """Redirect all open files to nowhere, so that no buffer is written any more."""
        self.crashed = True
        nowhere = os.open(os.devnull, os.O_RDWR)
        for file in self._files:
            with contextlib.suppress(OSError, ValueError):
                os.dup2(nowhere, file.fileno(), inheritable=False)
        os.close(nowhere)


def _file(fd: int) -> _File:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def _may_create(args: tuple[Any, ...], how: dict[str, Any]) -> bool:
    """Return whether a call of :func:`os.open` may create or empty a file."""
    flags = args[1] if len(args) > 1 else how.get("flags", 0)
    return bool(flags & (os.O_CREAT | os.O_TRUNC))


def _may_create_file(args: tuple[Any, ...], how: dict[str, Any]) -> bool:
    """Return whether a call of :func:`open` may; with a descriptor it does not."""
    file = args[0] if args else how.get("file")
    mode = args[1] if len(args) > 1 else how.get("mode", "r")
    return not isinstance(file, int) and bool(set(mode) & set("wax+"))


def _describe(name: str, args: tuple[Any, ...]) -> str:
    """Return the name of an effect: the call, and the last part of its path."""
    heads = [arg[0] if isinstance(arg, list | tuple) and arg else arg for arg in args]
    paths = [os.fspath(arg) for arg in heads if isinstance(arg, str | os.PathLike)]
    if name in {"open", OPEN_FILE}:
        paths = paths[:1]  # Without the mode.
    return " ".join([name, *(Path(os.fsdecode(path)).name for path in paths)])
