"""
Every effect that a piece of code has, counted; and its death before or after any of them.

An effect is a call that changes something which outlives the caller: a write, a
rename, a file opened to be written, a signal, a program started, a session asked
for. It is seen where Python's own library makes it: in :mod:`os`, :func:`open`,
:mod:`subprocess`, :mod:`signal`; what an extension does by itself is not seen.

A fake world lives in the memory of the process that is tried, so that process
cannot really be killed. :class:`CrashAt` comes to the same: from one effect on, none
happens any more, whatever ``except`` and ``finally`` have in mind; files that were
open for writing keep what had reached them, and locks are let go.
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
from typing import TYPE_CHECKING, Any, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType, TracebackType

    from orchestrator_core.testing.fake_terminal import FakeTerminal

T = TypeVar("T")
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

#: What an orchestrator asks of a fake world that changes it, or asks who is alive.
FAKE_CALLS = frozenset(
    {
        *("start", "kill", "inspect", "sessions"),
        *(
            "processes.terminate_all",
            "processes.signal",
            "processes.identify",
            "processes.is_alive",
        ),
    }
)

OPEN_FILE = "open()"  #: What opening a file object is called; what it is then fed is not seen.


class Effects:
    """
    Stands, while it is entered, between code and what it does.

    Subclasses decide in :meth:`on_effect` what comes of an effect. With a *terminal*, what is
    asked of that counts as well; what its world does on behalf of others does not, nor
    does what threads do that were there before.
    """

    def __init__(self, terminal: FakeTerminal | None = None) -> None:
        self.names: list[str] = []  #: What has been begun so far, in order.
        self._world = None if terminal is None else terminal._world  # noqa: SLF001 - its own kin
        self._saved: list[tuple[Any, str, Any]] = []
        self._other_threads: set[int | None] = set()

    def on_effect(self, number: int, name: str, when: str) -> None:
        """Let effect *number* happen; or raise. *when* is "before" or "after"."""

    def is_under_test(self) -> bool:
        """Tell whether the calling code is what is tried."""
        if threading.get_ident() in self._other_threads:
            return False
        return self._world is None or not self._world.is_world_call()

    def __enter__(self) -> Self:
        self._other_threads = {thread.ident for thread in threading.enumerate()}
        self._other_threads.discard(threading.get_ident())
        for module, names in _CALLS.items():
            for name in names:
                self._wrap(module, name)
        self._wrap(subprocess.Popen, "__init__", label="Popen")
        if self._world is not None:
            self._wrap_fake()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        while self._saved:
            place, name, original = self._saved.pop()
            setattr(place, name, original)

    def _replace(self, place: Any, name: str, stand_in: object) -> None:  # noqa: ANN401 - a module, a class
        self._saved.append((place, name, getattr(place, name)))
        setattr(place, name, stand_in)

    def _wrap(self, place: Any, name: str, label: str = "") -> None:  # noqa: ANN401 - as above
        original = getattr(place, name)
        is_file = place in (io, builtins)

        def call(*args: Any, **how: Any) -> Any:  # noqa: ANN401 - as the original's
            if not self.is_under_test():
                return original(*args, **how)
            if name != "open":
                effect = _describe(label or name, args)
                return self.run_effect(effect, lambda: original(*args, **how))
            if not (_may_create_file if is_file else _may_create)(args, how):
                return self.track_open(original(*args, **how))
            effect = _describe(OPEN_FILE if is_file else name, args)
            return self.run_effect(effect, lambda: self.track_open(original(*args, **how)))

        self._replace(place, name, call)

    def _wrap_fake(self) -> None:
        world = self._world
        assert world is not None, "there is a world to wrap"  # noqa: S101 - seen by our caller
        call = world.call

        @contextlib.contextmanager
        def counted(name: str) -> Iterator[None]:
            if name not in FAKE_CALLS or not self.is_under_test():
                with call(name):
                    yield
                return
            number = self._begin(name)
            with call(name):
                yield
            self.on_effect(number, name, "after")

        self._replace(world, "call", counted)

    def track_open(self, result: T) -> T:
        """See what has been opened: a file, or a descriptor."""
        return result

    def run_effect(self, name: str, act: Callable[[], T]) -> T:
        """Carry out one effect, if it is let happen."""
        number = self._begin(name)
        try:
            return act()
        finally:
            self.on_effect(number, name, "after")

    def _begin(self, name: str) -> int:
        self.names.append(name)
        number = len(self.names) - 1
        self.on_effect(number, name, "before")
        return number


class CrashedError(BaseException):
    """Raised at every effect of code that is dead; none of them happens."""


class CrashAt(Effects):
    """
    CrashAt before or after effect *number*; never, if that is negative.

    Attributes:
        crashed: Whether it came to that.
    """

    def __init__(self, terminal: FakeTerminal | None, number: int, when: str = "before") -> None:
        super().__init__(terminal)
        self.crashed = False
        self._point = (number, when)
        self._fds: dict[int, _File] = {}
        self._files: list[io.IOBase] = []
        self._close = os.close

    def on_effect(self, number: int, _name: str, when: str) -> None:
        """Die, or be dead."""
        if not self.crashed and (number, when) == self._point:
            self._crash()
        if self.crashed:
            raise CrashedError

    def run_effect(self, name: str, act: Callable[[], T]) -> T:
        """Carry out one effect, if we live. The kernel unlocks for the dead."""
        return act() if name.startswith("flock") else super().run_effect(name, act)

    def track_open(self, result: T) -> T:
        """Remember what is to be closed by the kernel at our death."""
        if isinstance(result, io.IOBase):
            self._files.append(result)
            self._fds.pop(result.fileno(), None)  # Whose it was, it is the file's now.
        elif isinstance(result, int):
            self._fds[result] = _file(result)
        return result

    def __enter__(self) -> Self:
        super().__enter__()
        self._close = closer = os.close

        def closed(fd: int) -> None:
            self._fds.pop(fd, None)
            closer(fd)

        self._replace(os, "close", closed)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Take our hands off; if we died, close what we had open."""
        super().__exit__(kind, error, trace)
        for fd, file in self._fds.items() if self.crashed else ():
            with contextlib.suppress(OSError):
                if _file(fd) == file:  # Not closed behind our back, and another's by now.
                    os.close(fd)
        for opened in self._files if self.crashed else ():
            with contextlib.suppress(OSError, ValueError):
                opened.close()

    def _crash(self) -> None:
        """Let nothing that is still in a file's buffer get any further."""
        self.crashed = True
        nowhere = next(real for place, name, real in self._saved if (place, name) == (os, "open"))(
            os.devnull, os.O_RDWR
        )
        for file in self._files:
            with contextlib.suppress(OSError, ValueError):
                os.dup2(nowhere, file.fileno(), inheritable=False)
        self._close(nowhere)


def _file(fd: int) -> _File:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def _may_create(args: tuple[Any, ...], how: dict[str, Any]) -> bool:
    """Tell whether a call of :func:`os.open` may make or empty a file."""
    flags = args[1] if len(args) > 1 else how.get("flags", 0)
    return bool(flags & (os.O_CREAT | os.O_TRUNC))


def _may_create_file(args: tuple[Any, ...], how: dict[str, Any]) -> bool:
    """Tell whether a call of :func:`open` may; a descriptor is open already."""
    file = args[0] if args else how.get("file")
    mode = args[1] if len(args) > 1 else how.get("mode", "r")
    return not isinstance(file, int) and bool(set(mode) & set("wax+"))


def _describe(name: str, args: tuple[Any, ...]) -> str:
    """Return an effect in words: the call, and the last part of its path."""
    paths = [os.fspath(arg) for arg in args if isinstance(arg, str | os.PathLike)]
    if name in {"open", OPEN_FILE}:
        paths = paths[:1]  # Not the mode.
    commands = [arg[0] for arg in args if isinstance(arg, list | tuple) and arg]
    if name == "Popen" and commands:
        paths = [os.fspath(commands[0])]
    return " ".join([name, *(Path(os.fsdecode(path)).name for path in paths)])
