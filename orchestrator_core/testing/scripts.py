"""What a fake agent does with its life: a value, said once, before it starts."""

from __future__ import annotations

import signal

import attrs


@attrs.frozen(kw_only=True)
class Script:
    """What every fake agent may do; the subclasses say how it ends."""

    writes: bytes = b""  #: What it writes as soon as it runs.
    ignores_term: bool = False  #: It goes on at SIGTERM and SIGHUP; SIGKILL ends it.
    unkillable: bool = False  #: Nothing ends it, as in an uninterruptible system call.
    daemon: bool = False  #: It leaves a child behind that ignores SIGTERM, below the supervisor.
    stray: bool = False  #: The same, out of the supervisor's reach: only the cookie tells.
    loses_supervisor_after_s: float | None = None  #: Somebody kills its supervisor, -9.


@attrs.frozen
class Runs(Script):
    """It runs until somebody ends it."""


@attrs.frozen
class Exits(Script):
    """It exits by itself."""

    code: int = 0
    after_s: float = 0.0


@attrs.frozen
class Dies(Script):
    """It is ended by a signal that none of us sent."""

    signal: int = signal.SIGSEGV
    after_s: float = 0.0


@attrs.frozen
class Refuses(Script):
    """It cannot be started: no such program, or not an executable one."""

    message: str = "No such file or directory"
