"""
Every effect a process has on the world, counted; and its death before or after any of them.

An effect is a call that changes something others can see: a write, a rename, a
lock, a signal, a program started. :func:`counted` lists them in the order in
which they happen; :class:`Killed` ends this process with a real SIGKILL at one;
:class:`Fails` lets one be refused. :class:`Dies` is death for a process that
plays several parts, as it does on the fake: from one effect on it has none any more.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

from orchestrator_core.exceptions import TerminalError

_CALLS = {
    os: (
        *("open", "write", "pwrite", "fsync", "rename", "replace", "link", "unlink", "remove"),
        *("mkdir", "rmdir", "mkfifo", "symlink", "ftruncate", "fchmod", "chmod", "kill"),
    ),
    signal: ("pidfd_send_signal",),
    fcntl: ("flock",),
    subprocess: ("run",),
}

#: What an orchestrator asks of a fake world that changes it, or asks who is alive.
_FAKE_CALLS = {
    *("start", "kill", "inspect", "sessions"),
    *("processes.terminate_all", "processes.signal", "processes.identify", "processes.is_alive"),
}


class Effects:
    """
    Stands between this process and what it does.

    Called with the number of each effect, its name, and when: "before" it
    happened or "after". Subclasses decide what comes of that. With a *fake*, its
    calls are effects as well, and what it does on behalf of others is none.
    """

    def __init__(self, fake=None):
        self.names = []
        self._saved = []
        self._fake_world = fake and fake._world

    def at(self, number, name, when):
        """Let an effect happen; or do not."""

    def is_ours(self):
        """Tell whether the calling code is the process that is tried."""
        world = self._fake_world
        if world is None:
            return True
        plays_a_supervisor = world.me is not None and world.me.role is not None
        return not (world.lock._is_owned() or plays_a_supervisor)

    def __enter__(self):
        for module, names in _CALLS.items():
            for name in names:
                self._wrap(module, name)
        self._wrap(subprocess.Popen, "__init__", label="Popen")
        if self._fake_world is not None:
            self._wrap_fake(self._fake_world)
        return self

    def __exit__(self, *_):
        for place, name, original in reversed(self._saved):
            setattr(place, name, original)

    def _wrap(self, place, name, label=None):
        original = getattr(place, name)
        self._saved.append((place, name, original))

        def call(*args, **how):
            if not _is_effect(name, args, how) or not self.is_ours():
                return original(*args, **how)
            return self.effect(_told(label or name, args), lambda: original(*args, **how))

        setattr(place, name, call)

    def _wrap_fake(self, world):
        call = world.call
        self._saved.append((world, "call", call))

        @contextlib.contextmanager
        def counted(name):
            if name not in _FAKE_CALLS or not self.is_ours():
                with call(name):
                    yield
                return
            number = self._begin(name)
            with call(name):
                yield
            self.at(number, name, "after")

        world.call = counted

    def _begin(self, name):
        self.names.append(name)
        number = len(self.names) - 1
        self.at(number, name, "before")
        return number

    def effect(self, name, act):
        """Carry out one effect, if it is let happen."""
        number = self._begin(name)
        result = act()
        self.at(number, name, "after")
        return result


def _is_effect(name, args, how):
    if name != "open":
        return True
    flags = args[1] if len(args) > 1 else how.get("flags", 0)
    return bool(flags & (os.O_CREAT | os.O_TRUNC))


def _told(name, args):
    """Return an effect in words: the call, and the last part of its path."""
    paths = [os.fspath(arg) for arg in args if isinstance(arg, str | os.PathLike)]
    argv = [a for a in args if isinstance(a, list | tuple)]
    if argv and name in {"run", "Popen"}:
        verbs = ("new-session", "start-server", "if-shell", "list-panes", "-V")
        paths = [next((v for v in verbs if v in argv[0]), str(argv[0][0]))]
    return f"{name} {' '.join(Path(path).name for path in paths)}".strip()


class Killed(Effects):
    """A real SIGKILL of this process, before or after an effect: a number, or part of a name."""

    def __init__(self, effect, when):
        super().__init__()
        self._effect, self._when = effect, when

    def at(self, number, name, when):
        meant = self._effect in name if isinstance(self._effect, str) else self._effect == number
        if meant and when == self._when:
            signal.raise_signal(signal.SIGKILL)


class Fails(Effects):
    """Effect number *number* is refused with *code*; all from it on, if *for_ever*."""

    def __init__(self, fake, number, code, *, for_ever=False, only=()):
        super().__init__(fake)
        self._number, self._code, self._for_ever, self._only = number, code, for_ever, only

    def at(self, number, name, when):
        due = number >= self._number if self._for_ever else number == self._number
        meant = not self._only or name.split()[0] in self._only
        if due and meant and when == "before" and not name.startswith(("flock", "fchmod")):
            raise self._error(name)

    def _error(self, name):
        if name in _FAKE_CALLS:
            return TerminalError(f"{name} was told to fail")
        return OSError(self._code, os.strerror(self._code))


class Dead(BaseException):
    """Raised at every effect of a process that is dead; none of them happens."""


class Dies(Effects):
    """
    The death of an orchestrator that shares its process with a fake world.

    From effect number *number* on, none of its effects happens; what it holds open
    is closed at the end, as the kernel would.
    """

    def __init__(self, fake, number, when="before"):
        super().__init__(fake)
        self.is_dead = False
        self._point = (number, when)
        self._opened = set()

    def at(self, number, _name, when):
        if self.is_dead or (number, when) == self._point:
            self.is_dead = True
            raise Dead

    def effect(self, name, act):
        if name.startswith("flock"):  # The kernel unlocks for the dead.
            return act()
        return super().effect(name, act)

    def __enter__(self):
        super().__enter__()
        opener, closer = os.open, os.close
        self._saved += [(os, "open", opener), (os, "close", closer)]

        def opened(*args, **how):
            fd = opener(*args, **how)
            if self.is_ours():
                self._opened.add(fd)
            return fd

        def closed(fd):
            self._opened.discard(fd)
            closer(fd)

        os.open, os.close = opened, closed
        return self

    def __exit__(self, *error):
        super().__exit__(*error)
        for fd in self._opened if self.is_dead else ():
            with contextlib.suppress(OSError):
                os.close(fd)


if sys.platform != "linux":
    del _CALLS[signal]


def registry_writes_from_now(monkeypatch):
    """Return the files that new versions of registries are written to: a list that grows."""
    seen = []
    real = os.open

    def opened(path, flags, *more, **named):
        if flags & os.O_CREAT and str(path).endswith((".tmp", ".next-0", ".next-1")):
            seen.append(str(path))
        return real(path, flags, *more, **named)

    monkeypatch.setattr(os, "open", opened)
    return seen
