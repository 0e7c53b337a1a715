"""Scripts: the behaviour of fake agents, as values that are set before the start."""

from __future__ import annotations

import signal

import attrs


@attrs.frozen(kw_only=True)
class Script:
    """The options of every fake agent; the subclasses define its end."""

    writes: bytes = b""  #: Its output at its start.
    ignores_term: bool = False  #: It survives SIGTERM and SIGHUP; SIGKILL ends it.
    unkillable: bool = False  #: No signal ends it, as in an uninterruptible system call.
    daemon: bool = False  #: It starts a child below the supervisor that ignores SIGTERM.
    stray: bool = False  #: It starts one outside of the supervisor's tree, with the cookie.
    loses_supervisor_after_s: float | None = None  #: Its supervisor gets a SIGKILL then.


@attrs.frozen
class Runs(Script):
    """The agent runs until another process ends it."""


@attrs.frozen
class Exits(Script):
    """The agent exits by itself."""

    code: int = 0
    after_s: float = 0.0


@attrs.frozen
class Dies(Script):
    """The agent dies of a signal, which the orchestrator did not send."""

    signal: int = signal.SIGSEGV
    after_s: float = 0.0


@attrs.frozen
class Refuses(Script):
    """The agent cannot be started: its program is missing, or not executable."""

    message: str = "No such file or directory"
