"""
The exit recorder: how the agent started and ended, on disk by rename.

The state is in two files: ``started`` (the agent's identity) and ``exit`` (how it ended).
The events FIFO only says when to read them. It may have no reader, and nothing depends on
one.
"""

from __future__ import annotations

import posix

from orchestrator_core.supervisor import procfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class ExitRecorder:
    """
    The facts of one agent's life, written as soon as they are known.

    Attributes:
        cause: What began the agent's end; "exit" until another cause comes first.
    """

    def __init__(self, exit_file: str, events: str) -> None:
        self._exit_file = exit_file
        self._started_file = f"{exit_file.rpartition('/')[0]}/started"
        try:
            flags = posix.O_WRONLY | posix.O_NONBLOCK | posix.O_CLOEXEC
            self._events: int | None = posix.open(events, flags)
        except OSError:
            self._events = None  # The FIFO has no reader.
        self._facts: dict[str, object] = {
            "code": None,
            "signal": None,
            "ran_s": 0.0,
            "error": None,
            "cause": "exit",
            "contained": False,
            "forced": False,
            "cgroup": False,
        }
        self.cause = "exit"

    def started(self, pid: int, *, in_cgroup: bool, not_set: Sequence[str] = ()) -> None:
        """Record that the agent runs, its identity, and the attributes that it does not have."""
        if not_set:
            self._facts["not_set"] = ",".join(not_set)
        seen = procfs.stat(pid)
        boot_id = procfs.read("/proc/sys/kernel/random/boot_id").decode().strip()
        self.write_start_record(
            pid,
            seen.started if seen else None,
            boot_id,
            in_cgroup=in_cgroup,
            namespaces=procfs.namespaces(),
        )

    def write_start_record(
        self,
        pid: int,
        started: int | None,
        boot_id: str,
        *,
        in_cgroup: bool,
        namespaces: tuple[int | None, int | None] = (None, None),
    ) -> None:
        """Record the identity of the agent's main process; *started* as the kernel counts it."""
        self._facts["cgroup"] = in_cgroup
        facts: dict[str, object] = {
            "boot_id": boot_id,
            "pid": pid,
            "started": started,
            "pid_ns": namespaces[0],
            "time_ns": namespaces[1],
            "cgroup": in_cgroup,
        }
        if "not_set" in self._facts:
            facts["not_set"] = self._facts["not_set"]
        _replace(self._started_file, facts)
        self._send_event(f"started {pid}")

    def spawn_failed(self, why: str) -> None:
        """Record that the agent never ran, and why."""
        self.cause = "refused"
        self._facts["error"] = why
        self._send_event(f"refused {why}")

    def exited(self, wait_status: int, ran_s: float) -> None:
        """Record how the agent's main process ended; its descendants may still be alive."""
        if self.cause == "refused":
            return
        code = posix.waitstatus_to_exitcode(wait_status)
        self._facts["code" if code >= 0 else "signal"] = abs(code)
        self._facts["ran_s"] = round(ran_s, 6)
        self._write(tree_empty=False, forced=False)

    def all_exited(self, *, tree_empty: bool, forced: bool) -> None:
        """Record that the shutdown is over; *tree_empty*: proved, no descendant is alive."""
        self._write(tree_empty=tree_empty, forced=forced)
        self._send_event("exited")

    def _write(self, *, tree_empty: bool, forced: bool) -> None:
        self._facts |= {"cause": self.cause, "contained": tree_empty, "forced": forced}
        _replace(self._exit_file, self._facts)

    def _send_event(self, line: str) -> None:
        if self._events is None:
            return
        try:
            posix.write(self._events, (line[:4000] + "\n").encode(errors="surrogateescape"))
        except OSError:  # The FIFO has no reader any more, or is full.
            self.close()

    def close(self) -> None:
        """Close the events FIFO. Idempotent."""
        if self._events is not None:
            posix.close(self._events)
            self._events = None


def _replace(path: str, facts: Mapping[str, object]) -> None:
    """Write a JSON object to *path* by rename; without effect if its directory was removed."""
    text = "{" + ", ".join(f'"{key}": {_json(value)}' for key, value in facts.items()) + "}\n"
    flags = posix.O_WRONLY | posix.O_CREAT | posix.O_TRUNC | posix.O_CLOEXEC
    try:
        fd = posix.open(f"{path}.new", flags, 0o600)
        try:
            posix.write(fd, text.encode())
        finally:
            posix.close(fd)
        posix.rename(f"{path}.new", path)
    except OSError:
        pass  # Another process has ended the agent and removed the directory.


def _json(value: object) -> str:
    """Return a flat value as JSON. The json module takes as long to import as this package."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        text = value.encode("utf-8", "replace").decode()
        return f'"{"".join(map(_json_character, text))}"'
    return repr(value)


def _json_character(char: str) -> str:
    """Return a character as itself or as JSON's escapes, a surrogate pair beyond U+FFFF."""
    if char.isprintable() and char not in '"\\':
        return char
    units = char.encode("utf-16-be").hex()
    return "".join(f"\\u{units[i : i + 4]}" for i in range(0, len(units), 4))
