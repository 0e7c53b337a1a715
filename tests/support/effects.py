"""
Failures of a process at one of its effects: a real SIGKILL, or an error of the system.

The effects are those of :class:`orchestrator_core.testing.effects.Effects`, which lists them
in the order in which they happen. On the fake, one process is also every supervisor, and
:class:`~orchestrator_core.testing.effects.CrashAt` simulates its death.
"""

from __future__ import annotations

import os
import signal

from orchestrator_core.exceptions import TerminalError
from orchestrator_core.testing.effects import FAKE_CALLS, Effects


class Killed(Effects):
    """A real SIGKILL of this process, before or after an effect: a number, or part of a name."""

    def __init__(self, effect, when):
        super().__init__()
        self._effect, self._when = effect, when

    def on_effect(self, number, name, when):
        meant = self._effect in name if isinstance(self._effect, str) else self._effect == number
        if meant and when == self._when:
            signal.raise_signal(signal.SIGKILL)


class Fails(Effects):
    """
    The first *times* effects from number *number* on fail with *code*.

    With *only*, only calls with these names fail; without it, a lock never fails.
    """

    def __init__(self, fake, number, code, *, times=1, only=()):
        super().__init__(fake)
        self._number, self._code, self._times, self._only = number, code, times, only

    def on_effect(self, number, name, when):
        call = name.split()[0]
        meant = call in self._only if self._only else call not in ("flock", "fchmod")
        if when == "before" and number >= self._number and meant and self._times > 0:
            self._times -= 1
            raise self._error(name)

    def _error(self, name):
        if name in FAKE_CALLS:
            return TerminalError(f"{name} fails, as the test requests")
        return OSError(self._code, os.strerror(self._code))


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
