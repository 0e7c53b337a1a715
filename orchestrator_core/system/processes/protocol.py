"""
What a deployment asks of processes: who is it, is it alive, end all that is mine.

A process is never known by a bare pid, which the kernel gives to the next one
as soon as it is free. It is known by boot, pid and start time, and signalled
through a handle (a pidfd) that is opened first and checked afterwards.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol

import attrs

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path


@attrs.frozen
class Identity:
    """One process, for ever: no two share all three."""

    boot_id: str
    pid: int
    started: int  #: Clock ticks since boot on Linux; microseconds since 1970 elsewhere.


@attrs.frozen
class OwnershipSelector:
    """All by which an agent's processes are told from everybody else's."""

    cookie: str  #: The value of ORCHESTRATOR_COOKIE in their environment.
    supervisor: Identity | None = None  #: The pane's own process, if it is known.
    cgroup: str | None = None  #: The directory of the agent's own cgroup, if it has one.
    exit_file: str | None = None  #: Where its supervisor writes how it ended.
    extra_roots: tuple[Identity, ...] = ()  #: Seen a moment ago to be its, by other evidence.

    @property
    def run_dir(self) -> str | None:
        """The agent's run directory, with all that its supervisor leaves."""
        return None if self.exit_file is None else os.path.dirname(self.exit_file)  # noqa: PTH120


@attrs.frozen
class FileId:
    """One file, whatever it is called."""

    device: int
    inode: int


@attrs.frozen(kw_only=True)
class OpenFile:
    """A process that has a file open."""

    process: Identity
    name: str
    file: FileId
    writes: bool  #: It can write to it.
    is_input: bool  #: The file is its standard input.
    ancestors: tuple[Identity, ...]  #: Its parent, its parent's, and so on.
    sid: int  #: Of its POSIX session: the pid of who leads that, or led it.


@attrs.frozen
class GracePeriods:
    """How long an agent is given at its end, in seconds. The sum is the bound."""

    term_s: float = 2.0  #: From SIGTERM to SIGKILL.
    kill_s: float = 2.0  #: From SIGKILL until we say that somebody survived.
    linger_s: float = 1.0  #: After its own report of its end: to leave by itself.


@attrs.frozen
class Survivor:
    """A process that is still alive after all that was done."""

    pid: int
    name: str


@attrs.frozen
class TerminationResult:
    """How an agent's processes were ended, and how far that is proved."""

    method: str  #: "cgroup", "subreaper" or "scan": the strongest proof there was.
    proven: bool  #: Nothing of it is alive, by a method that misses nothing it started.
    signalled: int = 0  #: How many processes were signalled from here.
    forced: bool = False  #: Whether SIGKILL was needed.
    survivors: tuple[Survivor, ...] = ()
    duration_ms: float = 0.0
    #: Since when, by ``time.monotonic``, its supervisor was dead before we came; None: it was
    #: alive, or that is not known.
    dead_since: float | None = None


@attrs.frozen
class TaggedProcess:
    """A living process that carries a cookie in its environment."""

    identity: Identity
    name: str
    cookie: str


@attrs.frozen
class WatchResult:
    """What a watch saw first; neither, if its time ran out."""

    readable: bool = False  #: The descriptor has something to read, or its writers are gone.
    exited: bool = False  #: The process has ended.


@attrs.frozen
class ExitRecord:
    """How an agent ended, as its supervisor has witnessed it."""

    code: int | None  #: The exit status; None if a signal ended it, or it never ran.
    signal: int | None
    ran_s: float
    error: str | None  #: Why it never ran.
    cause: str  #: What its end began with: exit, term, request, deadline, hangup or refused.
    contained: bool  #: Proved: nothing that it started is alive.
    forced: bool  #: Whether SIGKILL was needed.
    cgroup: bool  #: Whether it ran in its own cgroup.


class Processes(Protocol):
    """The processes of this machine, as far as a deployment needs them."""

    def identify(self, pid: int) -> Identity | None:
        """Return the identity of the living process *pid*; None if there is none, or a zombie."""
        ...

    def is_alive(self, who: Identity) -> bool:
        """Tell whether *who* is alive. A zombie is not; nor is anyone of another boot."""
        ...

    def find_tagged(self, prefix: str) -> tuple[TaggedProcess, ...]:
        """
        Return all living processes whose cookie begins with *prefix*, by one pass over all.

        Raises:
            CouldNotAsk: The table of processes cannot be read.
        """
        ...

    def signal(self, who: Identity, signum: int) -> bool:
        """Send *signum* to *who* and to nobody else; False if it is gone."""
        ...

    def watch(
        self, who: Identity | None, *, timeout_s: float, fd: int | None = None
    ) -> WatchResult:
        """Wait until *who* has ended, or *fd* is readable, or *timeout_s* is over."""
        ...

    def find_open_files(self, files: Collection[FileId]) -> tuple[OpenFile, ...]:
        """
        Return who has one of *files* open, once for each of its descriptors, by one pass.

        Raises:
            CouldNotAsk: The system does not tell.
        """
        ...

    def age_s(self, who: Identity) -> float:
        """Return how long ago *who* was started, whether it is alive or not, in this boot."""
        ...

    def cwd_of(self, who: Identity) -> Path | None:
        """Return the directory in which *who* works; None if it has ended, or does not tell."""
        ...

    def owned_processes(self, claim: OwnershipSelector) -> tuple[Identity, ...]:
        """Return who is covered by *claim* now: whom :meth:`terminate_all` would end."""
        ...

    def includes_self(self, claim: OwnershipSelector) -> bool:
        """
        Tell whether the calling process would be ended with what *claim* covers.

        The supervisor itself, become the unwinder, is not inside.
        """
        ...

    def cgroup_path(self, name: str) -> str | None:
        """
        Return the directory that a cgroup called *name* would have; None if none can be had.

        Touches nothing. The directory is outside every agent's own cgroup, so that
        an agent deployed from inside another is not ended with it.
        """
        ...

    def create_cgroup(self, directory: str) -> bool:
        """
        Make the cgroup that :meth:`cgroup_path` named, if it can be made.

        Idempotent. False is no error: the supervisor contains the agent without it.
        :meth:`terminate_all` removes it.
        """
        ...

    def terminate_all(self, claim: OwnershipSelector, patience: GracePeriods) -> TerminationResult:
        """
        End everything that *claim* covers, gently first, and prove it.

        The calling process is spared if it is the supervisor itself, become the
        unwinder. Idempotent; ends within ``term_s + kill_s`` and a little.
        """
        ...
