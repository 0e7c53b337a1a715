"""The files that a supervisor writes into its agent's run directory: readers, and their space."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
from typing import TYPE_CHECKING, TypeVar

import attrs
import msgspec

from orchestrator_core.exceptions import CouldNotAsk, StorageError
from orchestrator_core.supervisor.exit_recorder import RESERVED_BYTES, RESERVES
from orchestrator_core.system import durable
from orchestrator_core.system.processes.protocol import ExitRecord, Identity

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator_core.system.processes.protocol import OwnershipSelector

T = TypeVar("T")

_SECRET = rb"secret-[0-9a-f]{32}"


def new_secret() -> str:
    """Return a new secret of a supervisor."""
    return f"secret-{os.urandom(16).hex()}"


#: After these errors the content of a file is unknown.
_TRANSIENT_ERRNOS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO)


@attrs.frozen
class StartRecord:
    """The agent's main process, as its supervisor started it."""

    boot_id: str
    pid: int
    started: int | None
    cgroup: bool  #: Whether it runs in its own cgroup.
    pid_ns: int | None = None
    time_ns: int | None = None

    @property
    def identity(self) -> Identity | None:
        """The identity of the process; None if the supervisor could not read its start time."""
        if self.started is None:
            return None
        return Identity(self.boot_id, self.pid, self.started, self.pid_ns, self.time_ns)


def reserve_exit_records(run_dir: str) -> None:
    """
    Allocate the space of the supervisor's exit records, which it overwrites in place.

    Raises:
        StorageError: There is no space.
    """
    for name in RESERVES:
        durable.create(f"{run_dir}/{name}", bytes(RESERVED_BYTES), durable=False)


def decode_exit_record(data: str | None) -> ExitRecord | None:
    """Return the exit record that a supervisor passed on; None if it passed none, or no record."""
    try:
        return None if data is None else msgspec.json.decode(data, type=ExitRecord)
    except msgspec.DecodeError:
        return None


def read_exit_record(path: str | Path | None) -> ExitRecord | None:
    """
    Return how the agent ended; None if its supervisor has recorded no end.

    Raises:
        CouldNotAsk: No descriptor is left to read the file, or the disk fails.
    """
    return None if path is None else _read(path, ExitRecord)


def read_start_record(run_dir: str | None) -> StartRecord | None:
    """
    Return the agent's main process; None if it was never started or its run directory is gone.

    Raises:
        CouldNotAsk: See :func:`read_exit_record`.
    """
    return None if run_dir is None else _read(f"{run_dir}/started", StartRecord)


def digest(secret: str) -> str:
    """Return what may be known of a supervisor's secret: its SHA-256, in hexadecimal."""
    return hashlib.sha256(secret.encode()).hexdigest()


def is_proof(selector: OwnershipSelector, record: ExitRecord | None) -> bool:
    """
    Return whether a record proves that no process of the agent is alive.

    The agent can write a record, too. Only its supervisor knows the secret, whose digest is in
    the journal.
    """
    if record is None or not record.contained:
        return False
    return selector.witness is None or digest(record.secret) == selector.witness


def never_started(selector: OwnershipSelector, boot_id: str) -> bool:
    """Return whether it is certain that no process of the agent was started in this boot."""
    if selector.supervisor is not None and selector.supervisor.boot_id != boot_id:
        return True
    if selector.run_dir is None:
        return False
    with contextlib.suppress(StorageError):
        if not durable.exists(selector.run_dir):
            # It is created before the session: without it and a supervisor, no agent can start.
            return selector.supervisor is None
    # A supervisor removes this file before it starts anything. It has the supervisor's secret.
    return _is_launch_file(f"{selector.run_dir}/launch", selector.witness)


def _is_launch_file(path: str, witness: str | None) -> bool:
    if witness is None:
        return os.path.lexists(path)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb", buffering=0) as file:  # noqa: PTH123 - a descriptor
            data = file.readall() or b""
    except OSError:
        return False
    # Its format is not parsed: the agent may have written it.
    return any(digest(each.decode()) == witness for each in re.findall(_SECRET, data))


def _read(path: str | Path, record_type: type[T]) -> T | None:
    try:
        # O_NOFOLLOW and O_NONBLOCK: the agent may have put a symlink or a FIFO there.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb", buffering=0) as file:  # noqa: PTH123 - a descriptor
            return msgspec.json.decode(file.readall() or b"", type=record_type)
    except msgspec.DecodeError:
        return None
    except OSError as error:
        if error.errno in _TRANSIENT_ERRNOS:
            raise CouldNotAsk(f"{path} could not be read: {error.strerror}") from error
        return None
