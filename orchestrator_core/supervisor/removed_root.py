"""
A root that was removed under its agents, by ``rm -rf`` or by an agent's ``git clean -fdx``.

The agents run on, and no command finds them any more. Each supervisor notices the removal,
ends its agent, and saves what it knows in a private directory of the user: how the agent
ended, and the end of its log, which the supervisor still has open.
"""

from __future__ import annotations

import posix

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orchestrator_core.supervisor.exit_recorder import ExitRecorder
    from orchestrator_core.supervisor.launch import Launch

_LOG_BYTES = 16 << 20  #: How much of the log's end is saved: 16 MiB.


def is_removed(journal: int, run_dir: str) -> bool:
    """
    Return whether the root of *journal*, an open descriptor, was removed.

    Its journal and its run directory have no name any more. A journal that was moved, as by
    the move of the whole root, still has one.
    """
    if posix.fstat(journal).st_nlink:
        return False
    try:
        posix.lstat(run_dir)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False  # Whether it is there is unknown.
    return False


def save(launch: Launch, recorder: ExitRecorder, log: int | None) -> None:
    """Save the exit record, and the end of the log, in the first private directory that works."""
    agent_id = launch.env.get("ORCHESTRATOR_AGENT_ID", "agent")
    for directory in launch.rescue_dirs:
        try:
            _make_private(directory)
            _make_private(f"{directory}/removed")
            name = f"{directory}/removed/{launch.env.get('ORCHESTRATOR_COOKIE', agent_id)}"
            if log is not None:
                _copy_end(log, f"{name}_stream.jsonl")
        except OSError:
            continue
        root = launch.env.get("ORCHESTRATOR_ROOT", "")
        if recorder.save(f"{name}.json", {"agent_id": agent_id, "root": root}):
            return


def _make_private(directory: str) -> None:
    """
    Create a directory unless it is this user's own, and closed to others.

    Raises:
        OSError: Another user may have it.
    """
    try:
        posix.mkdir(directory, 0o700)
    except FileExistsError:
        pass
    status = posix.lstat(directory)
    if (status.st_mode & 0o170077, status.st_uid) != (0o040000, posix.geteuid()):
        raise OSError(f"{directory} is not private")


def _copy_end(log: int, path: str) -> None:
    flags = posix.O_WRONLY | posix.O_CREAT | posix.O_TRUNC | posix.O_NOFOLLOW | posix.O_CLOEXEC
    target = posix.open(path, flags, 0o600)
    try:
        position = max(0, posix.fstat(log).st_size - _LOG_BYTES)
        while piece := posix.pread(log, 1 << 16, position):
            position += posix.write(target, piece)
    finally:
        posix.close(target)
