"""
Break in at every system call that changes the disk: kill there, or refuse there.

The calls are replaced in :mod:`os`, through which both the library and the steps of the
tests go. ``Breaker(at=n, …)`` counts them, and acts at the *n*-th.
"""

import contextlib
import os
import signal
import sys
import traceback
import warnings

CALLS = (
    "write", "pwrite", "fsync", "ftruncate", "fchmod", "mkdir", "open",
    "link", "unlink", "rename", "symlink", "rmdir",
)  # fmt: skip
_REAL = {name: getattr(os, name) for name in CALLS}


class Breaker:
    """Count the changing calls; at the n-th, do what is to be done."""

    def __init__(self, at=0, *, before=None, after=None, for_ever=False, only=CALLS):
        self.count = 0
        self.seen = []
        self._at, self._before, self._after = at, before, after
        self._for_ever, self._only = for_ever, only

    def _call(self, name, *args, **options):
        if name not in self._only or not _changes(name, args):
            return _REAL[name](*args, **options)
        self.count += 1
        self.seen.append(name)
        hit = self.count == self._at or (self._for_ever and self.count > self._at > 0)
        if hit and self._before:
            self._before()
        try:
            return _REAL[name](*args, **options)
        finally:
            if hit and self._after:
                self._after()

    @contextlib.contextmanager
    def in_place(self):
        for name in CALLS:
            setattr(
                os, name, lambda *args, _name=name, **options: self._call(_name, *args, **options)
            )
        try:
            yield self
        finally:
            for name, real in _REAL.items():
                setattr(os, name, real)


def _changes(name, args):
    return name != "open" or bool(args[1] & os.O_CREAT)


def die():
    """End this process as a power failure of one would."""
    os.kill(os.getpid(), signal.SIGKILL)


def refuse(errno):
    """Return something that refuses as the kernel does."""

    def raising():
        raise OSError(errno, os.strerror(errno))

    return raising


def in_child(work):
    """Run *work* in a forked process; return the signal that killed it, or 0. It must not raise."""
    sys.stdout.flush()
    sys.stderr.flush()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # xdist has threads; the child, none
        pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException:  # noqa: BLE001 - nothing may get back into pytest
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert not os.WIFEXITED(status) or os.WEXITSTATUS(status) == 0, "the child raised"
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def calls_of(work):
    """Return the changing calls that *work* makes, run in a child that leaves no trace in ours."""
    end, begin = os.pipe()

    def counted():
        with Breaker().in_place() as breaker:
            work()
        _REAL["write"](begin, " ".join(breaker.seen).encode())

    in_child(counted)
    os.close(begin)
    with os.fdopen(end, "rb") as told:
        return told.read().decode().split()


def killed_at(number, when, work):
    """Run *work* in a child that is killed before or after its n-th changing call."""

    def doomed():
        with Breaker(number, **{when: die}).in_place():
            work()

    assert signal.SIGKILL == in_child(doomed), f"was not killed {when} call {number}"
