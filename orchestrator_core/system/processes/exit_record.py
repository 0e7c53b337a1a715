"""What a supervisor has left in its agent's run directory, read."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING, TypeVar

import attrs
import msgspec

from orchestrator_core.exceptions import CouldNotAsk, StorageError
from orchestrator_core.system import durable
from orchestrator_core.system.processes.protocol import ExitRecord, Identity

if TYPE_CHECKING:
    from pathlib import Path

T = TypeVar("T")

#: Of these nobody learns what is there.
_TRANSIENT_ERRNOS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO)


@attrs.frozen
class StartRecord:
    """The agent's main process, as its supervisor started it."""

    boot_id: str
    pid: int
    started: int | None
    cgroup: bool  #: Whether it runs in its own cgroup.

    @property
    def identity(self) -> Identity | None:
        """Who it is; None where the supervisor could not tell."""
        return None if self.started is None else Identity(self.boot_id, self.pid, self.started)


def read_exit_record(path: str | Path | None) -> ExitRecord | None:
    """
    Return how the agent ended; None if nobody has witnessed an end (yet).

    Raises:
        CouldNotAsk: We have no descriptor to read it with, or the disk fails.
    """
    return None if path is None else _read(path, ExitRecord)


def read_start_record(run_dir: str | None) -> StartRecord | None:
    """
    Return who the agent is; None if it was never started, or its run directory is gone.

    Raises:
        CouldNotAsk: As :func:`read_exit_record`.
    """
    return None if run_dir is None else _read(f"{run_dir}/started", StartRecord)


def run_dir_is_gone(run_dir: str) -> bool:
    """Tell whether it is certain that there is no such run directory."""
    with contextlib.suppress(StorageError):
        return not durable.exists(run_dir)
    return False


def gate_not_passed(run_dir: str) -> bool:
    """
    Tell whether it is certain that no supervisor has passed its gate.

    A supervisor removes its ``launch`` before it starts anything.
    """
    return os.path.lexists(f"{run_dir}/launch")


def _read(path: str | Path, kind: type[T]) -> T | None:
    try:
        # Neither followed nor waited for: an agent may have put anything there.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb", buffering=0) as file:  # noqa: PTH123 - a descriptor
            return msgspec.json.decode(file.readall() or b"", type=kind)
    except msgspec.DecodeError:
        return None
    except OSError as error:
        if error.errno in _TRANSIENT_ERRNOS:
            raise CouldNotAsk(f"{path} could not be read: {error.strerror}") from error
        return None
