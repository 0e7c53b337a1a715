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
import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading

_CALLS = {
    os: (
        *("open", "write", "pwrite", "fsync", "rename", "replace", "link", "unlink", "remove"),
        *("mkdir", "rmdir", "mkfifo", "symlink", "ftruncate", "fchmod", "chmod", "kill"),
    ),
    signal: ("pidfd_send_signal",),
    fcntl: ("flock",),
    subprocess: ("run",),
}


class Effects:
    """
    Stands between this process and what it does.

    Called with the number of each effect, its name, and when: "before" it
    happened or "after". Subclasses decide what comes of that.
    """

    def __init__(self):
        self.names = []
        self._saved = []
        self._busy = threading.local()

    def at(self, number, name, when):
        """Let an effect happen; or do not."""

    def is_ours(self):
        """Tell whether the calling code is the process that is tried."""
        return True

    def __enter__(self):
        for module, names in _CALLS.items():
            for name in names:
                self._wrap(module, name)
        self._wrap(subprocess.Popen, "__init__", label="Popen")
        return self

    def __exit__(self, *_):
        for place, name, original in self._saved:
            setattr(place, name, original)

    def _wrap(self, place, name, label=None):
        original = getattr(place, name)
        self._saved.append((place, name, original))

        def call(*args, **how):
            if not _is_effect(name, args, how) or not self.is_ours():
                return original(*args, **how)
            return self.effect(_told(label or name, args), lambda: original(*args, **how))

        setattr(place, name, call)

    def effect(self, name, act):
        """Carry out one effect, if it is let happen."""
        self.names.append(name)
        number = len(self.names) - 1
        self.at(number, name, "before")
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
    return f"{name} {' '.join(os.path.basename(path) for path in paths)}".strip()


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
    """An effect is refused, once or from then on for ever, with *code*."""

    def __init__(self, number, code=errno.EIO, *, for_ever=False, only=()):
        super().__init__()
        self._number, self._code, self._for_ever, self._only = number, code, for_ever, only

    def at(self, number, name, when):
        due = number >= self._number if self._for_ever else number == self._number
        if due and when == "before" and (not self._only or name.split()[0] in self._only):
            raise OSError(self._code, os.strerror(self._code))


class Dead(BaseException):
    """Raised at every effect of a process that is dead; none of them happens."""


class Dies(Effects):
    """
    The death of an orchestrator that shares its process with a fake world.

    From effect number *number* on, none of its effects happens; what it holds open
    is closed at the end, as the kernel would. What the fake does on behalf of other
    processes goes on.
    """

    def __init__(self, fake, number, when="before"):
        super().__init__()
        self.is_dead = False
        self._fake_world = fake._world
        self._point = (number, when)
        self._opened = set()
        self._owner = threading.get_ident()

    def is_ours(self):
        world = self._fake_world
        return not world.lock._is_owned() and world.me is None

    def at(self, number, _name, when):
        if self.is_dead or (number, when) == self._point:
            self.is_dead = True
            raise Dead

    def effect(self, name, act):
        if name.startswith("flock"):  # The kernel unlocks for the dead.
            return act()
        if self.is_dead:
            raise Dead
        return super().effect(name, act)

    def __enter__(self):
        super().__enter__()
        self._wrap_fake()
        self._follow_descriptors()
        return self

    def _wrap_fake(self):
        call = self._fake_world.call
        self._saved.append((self._fake_world, "call", call))

        @contextlib.contextmanager
        def counted(name):
            if not self.is_ours():
                with call(name):
                    yield
                return
            if self.is_dead:
                raise Dead
            changes = name in {"start", "end", "processes.end", "processes.signal"}
            number = len(self.names)
            if changes:
                self.names.append(name)
                self.at(number, name, "before")
            with call(name):
                yield
            if changes:
                self.at(number, name, "after")

        self._fake_world.call = counted

    def _follow_descriptors(self):
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

    def __exit__(self, *error):
        for place, name, original in reversed(self._saved):
            if isinstance(place, type(os)) or isinstance(place, type):
                setattr(place, name, original)
            else:
                with contextlib.suppress(AttributeError):
                    delattr(place, name)
        if self.is_dead:
            for fd in self._opened:
                with contextlib.suppress(OSError):
                    os.close(fd)


def counted(act, effects=None):
    """Carry out *act*; return the names of its effects, in order."""
    effects = effects or Effects()
    with effects:
        act()
    return effects.names


if sys.platform != "linux":
    del _CALLS[signal]
