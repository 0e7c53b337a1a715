"""
The witness: how the agent ended, on disk by rename, and news for who listens.

State is in files: ``started`` (who the agent is) and ``exit`` (how it ended).
The events FIFO only says when to look; it may have no reader, and nothing
depends on one.
"""

from __future__ import annotations

import os

from orchestrator_core.supervisor import procfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


class ExitRecorder:
    """
    What is known of one agent's life, told as it becomes known.

    Attributes:
        cause: What its end began with; "exit" until something else comes first.
    """

    def __init__(self, exit_file: str, events: str) -> None:
        self._exit_file = exit_file
        self._started_file = os.path.join(os.path.dirname(exit_file), "started")
        try:
            self._events: int | None = os.open(events, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            self._events = None  # Nobody listens.
        self._in_cgroup = False
        self._code: int | None = None
        self._signal: int | None = None
        self._ran_s = 0.0
        self._error: str | None = None
        self.cause = "exit"

    def started(self, pid: int, *, in_cgroup: bool) -> None:
        """Tell that the agent runs, and who it is."""
        seen = procfs.stat(pid)
        boot_id = procfs.read("/proc/sys/kernel/random/boot_id").decode().strip()
        self._write_start_record(pid, seen.started if seen else None, boot_id, in_cgroup=in_cgroup)

    def _write_start_record(
        self, pid: int, started: int | None, boot_id: str, *, in_cgroup: bool
    ) -> None:
        self._in_cgroup = in_cgroup
        facts = {"boot_id": boot_id, "pid": pid, "started": started, "cgroup": in_cgroup}
        _replace(self._started_file, facts)
        self._send_event(f"started {pid}")

    def spawn_failed(self, why: str) -> None:
        """Tell that the agent never ran, and why."""
        self.cause, self._error = "refused", why
        self._send_event(f"refused {why}")

    def exited(self, wait_status: int, ran_s: float) -> None:
        """Tell how the agent's main process ended; what it started may live on."""
        if self.cause == "refused":
            return
        code = os.waitstatus_to_exitcode(wait_status)
        self._code, self._signal = (code, None) if code >= 0 else (None, -code)
        self._ran_s = ran_s
        self._write(tree_empty=False, forced=False)

    def all_exited(self, *, tree_empty: bool, forced: bool) -> None:
        """All that could be ended has ended."""
        self._write(tree_empty=tree_empty, forced=forced)
        self._send_event("exited")

    def _write(self, *, tree_empty: bool, forced: bool) -> None:
        facts = {
            "code": self._code,
            "signal": self._signal,
            "ran_s": round(self._ran_s, 6),
            "error": self._error,
            "cause": self.cause,
            "contained": tree_empty,
            "forced": forced,
            "cgroup": self._in_cgroup,
        }
        _replace(self._exit_file, facts)

    def _send_event(self, line: str) -> None:
        if self._events is None:
            return
        try:
            os.write(self._events, os.fsencode(line[:4000] + "\n"))
        except OSError:  # Nobody listens any more.
            os.close(self._events)
            self._events = None


def _replace(path: str, facts: Mapping[str, object]) -> None:
    """Put a JSON object at *path* by rename; not at all if its directory has been removed."""
    text = "{" + ", ".join(f'"{key}": {_json(value)}' for key, value in facts.items()) + "}\n"
    try:
        fd = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)
        os.rename(f"{path}.new", path)
    except OSError:
        pass  # Somebody else has ended the agent and cleared up; nobody will read it.


def _json(value: object) -> str:
    """Write one flat value. The json module would cost as much time as all of our start."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        plain = value.encode("utf-8", "replace").decode()
        return (
            '"'
            + "".join(c if c.isprintable() and c not in '"\\' else _escape(c) for c in plain)
            + '"'
        )
    return repr(value)


def _escape(char: str) -> str:
    """Return a character as JSON's escapes: one, or a pair beyond the first 65,536."""
    units = char.encode("utf-16-be").hex()
    return "".join(f"\\u{units[i : i + 4]}" for i in range(0, len(units), 4))
