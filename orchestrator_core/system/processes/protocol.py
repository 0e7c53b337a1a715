"""
What a deployment needs of processes: their identities, their liveness and their termination.

A bare pid never identifies a process, since the kernel reuses it as soon as it is free. Boot,
pid and start time do, within one pid namespace and one time namespace. Signals go through a
handle (a pidfd) that is opened first and compared with the identity afterwards.
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
    """The identity of one process; no other process ever has the same three values."""

    boot_id: str
    pid: int
    started: int  #: Clock ticks since boot on Linux; microseconds since 1970 elsewhere.
    #: The namespaces in which pid and start time are valid. None in a record of an earlier
    #: release, and without ``/proc``. Two identities are compared within one view only.
    pid_ns: int | None = attrs.field(default=None, eq=False)
    time_ns: int | None = attrs.field(default=None, eq=False)


@attrs.frozen
class OwnershipSelector:
    """The evidence that selects an agent's processes among all others."""

    cookie: str  #: The value of ORCHESTRATOR_COOKIE in their environment.
    supervisor: Identity | None = None  #: The pane's own process, if it is known. Has the cookie.
    cgroup: str | None = None  #: The directory of the agent's own cgroup, if it has one.
    exit_file: str | None = None  #: The file of the supervisor's exit record.
    extra_roots: tuple[Identity, ...] = ()  #: The agent's by other evidence, as of now.
    survivors: tuple[Identity, ...] = ()  #: Of an earlier end. Named while alive, not signalled.
    #: The digest of the secret that only the supervisor has. None: an earlier release has none.
    witness: str | None = None

    @property
    def run_dir(self) -> str | None:
        """The agent's run directory, with all files that its supervisor writes."""
        return None if self.exit_file is None else os.path.dirname(self.exit_file)  # noqa: PTH120


@attrs.frozen
class FileId:
    """One file, whatever its name."""

    device: int
    inode: int


@attrs.frozen(kw_only=True)
class OpenFile:
    """One descriptor of a file in a process."""

    process: Identity
    name: str
    file: FileId
    writes: bool  #: The process can write to the file.
    is_input: bool  #: The file is the standard input of the process.
    ancestors: tuple[Identity, ...]  #: Of the process, its parent first.
    sid: int  #: Of the process's POSIX session: the pid of its present or former leader.


@attrs.frozen(kw_only=True)
class Mention:
    """A process that names a word in its arguments or its environment."""

    process: Identity
    name: str
    word: str


@attrs.frozen
class PaneState:
    """The pane of a supervisor as the kernel shows it, whatever the terminal's server answers."""

    hung_up: bool  #: The process has no controlling terminal: its pane is gone, or never was.
    server: Identity | None  #: The tmux server that has the pane: the parent of the process.


@attrs.frozen
class GracePeriods:
    """
    How long an agent is given at its end, in seconds. The sum is the bound.

    *linger_s* is the time in which an agent may exit by itself after it has reported its end.
    None means the setting of the root; without one, 60 s with a preset, whose tool calls its
    service once more before it writes its answer, and 1 s without.
    """

    term_s: float = 2.0  #: From SIGTERM to SIGKILL.
    kill_s: float = 2.0  #: From SIGKILL until the processes left are reported as survivors.
    linger_s: float | None = None

    def default_linger_s(self, *, with_preset: bool = False) -> float:
        """Return *linger_s*, or the default without one."""
        if self.linger_s is not None:
            return self.linger_s
        return 60.0 if with_preset else 1.0


@attrs.frozen
class Survivor:
    """A process that is still alive after SIGKILL."""

    pid: int
    name: str
    identity: Identity | None = None
    denied: bool = False  #: It runs as another user: the kernel refuses signals for it.


@attrs.frozen
class TerminationResult:
    """How an agent's processes were terminated, and how far that is proved."""

    method: str  #: "cgroup", "subreaper" or "scan": the strongest proof available.
    proven: bool  #: No process of the agent is alive, by a method that finds all of them.
    signalled: int = 0  #: How many processes this call signalled.
    forced: bool = False  #: Whether SIGKILL was needed.
    survivors: tuple[Survivor, ...] = ()
    duration_ms: float = 0.0
    refused: tuple[str, ...] = ()  #: Processes of the selector without a proof, left alone.


@attrs.frozen
class TaggedProcess:
    """A living process with a cookie in its environment."""

    identity: Identity
    name: str
    cookie: str


@attrs.frozen
class WatchResult:
    """What a watch saw first; neither, if its time ran out."""

    readable: bool = False  #: The descriptor has something to read, or has no writers left.
    exited: bool = False  #: The process has ended.


@attrs.frozen
class ExitRecord:
    """How an agent ended, as recorded by its supervisor."""

    code: int | None  #: The exit status; None if a signal ended it, or it never ran.
    signal: int | None
    ran_s: float
    error: str | None  #: Why it never ran.
    cause: str  #: The trigger of its end: exit, term, request, deadline, hangup or refused.
    contained: bool  #: Proved: no process that it started is alive.
    forced: bool  #: Whether SIGKILL was needed.
    cgroup: bool  #: Whether it ran in its own cgroup.
    #: The pids and start times of descendants that were alive after SIGKILL.
    survivors: tuple[tuple[int, int], ...] = ()
    secret: str = attrs.field(default="", repr=False)  #: Its digest is the selector's *witness*.


class Processes(Protocol):
    """The processes of this machine, as far as a deployment needs them."""

    def identify(self, pid: int) -> Identity | None:
        """Return the identity of the living process *pid*; None if it has ended or is a zombie."""
        ...

    def is_alive(self, process: Identity) -> bool:
        """
        Return whether *process* is alive. A zombie, or a process of another boot, is not.

        Raises:
            OutOfSight: It is a process of another pid or time namespace.
        """
        ...

    def find_supervisor(self, selector: OwnershipSelector) -> Identity | None:
        """
        Return the agent's living supervisor, which no record names; None if it is dead.

        Raises:
            CouldNotAsk: It may be alive where it cannot be seen.
        """
        ...

    def pane_of(self, process: Identity) -> PaneState | None:
        """Return the state of the pane that runs *process*; None if that has ended or is hidden."""
        ...

    def find_tagged(self, prefix: str) -> tuple[TaggedProcess, ...]:
        """
        Return all living processes whose cookie begins with *prefix*, by one scan.

        Raises:
            CouldNotAsk: The table of processes cannot be read.
        """
        ...

    def signal(self, process: Identity, signum: int) -> bool:
        """Send *signum* to *process* and no other process; return False if it has ended."""
        ...

    def watch(
        self, process: Identity | None, *, timeout_s: float, fd: int | None = None
    ) -> WatchResult:
        """Wait until *process* has ended, *fd* is readable, or *timeout_s* has passed."""
        ...

    def find_open_files(self, files: Collection[FileId]) -> tuple[OpenFile, ...]:
        """
        Return the open descriptors of *files* in all processes, by one scan.

        Raises:
            CouldNotAsk: The system does not list them.
        """
        ...

    def find_mentions(self, words: Collection[str]) -> tuple[Mention, ...]:
        """
        Return each process that names one of *words*, by one scan; not the caller's ancestors.

        Raises:
            CouldNotAsk: The table of processes cannot be read.
        """
        ...

    def age_s(self, process: Identity) -> float:
        """Return the seconds since the start of *process*, alive or not, which is of this boot."""
        ...

    def cwd_of(self, process: Identity) -> Path | None:
        """Return the working directory of *process*; None if it has ended or is hidden."""
        ...

    def owned_processes(self, selector: OwnershipSelector) -> tuple[Identity, ...]:
        """
        Return the processes that :meth:`terminate_all` would terminate now.

        Raises:
            OutOfSight: See :meth:`terminate_all`.
        """
        ...

    def includes_self(self, selector: OwnershipSelector) -> bool:
        """
        Return whether *selector* covers the calling process.

        It does not cover the supervisor itself after that has become the unwinder.

        Raises:
            OutOfSight: See :meth:`terminate_all`.
        """
        ...

    def cgroup_path(self, name: str) -> str | None:
        """
        Return the directory of a cgroup called *name*; None if the system allows none.

        Nothing is created. The directory is outside every agent's own cgroup, so an agent
        deployed from inside another does not end with that.
        """
        ...

    def create_cgroup(self, directory: str) -> bool:
        """
        Create the cgroup that :meth:`cgroup_path` has named; return whether it is usable.

        Idempotent. False is no error: the supervisor contains the agent without a cgroup.
        :meth:`terminate_all` removes the cgroup.
        """
        ...

    def terminate_all(self, selector: OwnershipSelector, grace: GracePeriods) -> TerminationResult:
        """
        Terminate all processes that *selector* covers, and prove that none is left.

        A supervisor without the agent's cookie in its environment is left alone, and named in
        ``refused``: a program that can write to a journal can name any process there.

        They get SIGTERM first, then SIGKILL. The calling process is spared if it is the
        supervisor that became the unwinder. Idempotent; takes at most ``term_s + kill_s`` and
        one second more.

        Raises:
            OutOfSight: The agent lives in another pid or time namespace; nothing was signalled.
        """
        ...
