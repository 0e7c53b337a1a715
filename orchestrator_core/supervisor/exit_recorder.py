"""
The exit recorder: how the agent started and ended, on disk by rename.

The state is in two files: ``started`` (the agent's identity) and ``exit`` (how it ended).
The events FIFO only says when to read them. It may have no reader, and nothing depends on
one.

Agents fill disks. So the deployer allocates the space of the exit records beforehand: two
files that this class overwrites, shortens and renames. The last record also goes to the
unwinder that the supervisor becomes, in its environment.
"""

from __future__ import annotations

import posix

from orchestrator_core.supervisor import procfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


RESERVES = ("exitreserve", "finalreserve")  #: The deployer's files, beside the exit record.
RESERVED_BYTES = 4096  #: The size of each. No record is longer.
ENV_RECORD = "ORCHESTRATOR_EXIT_RECORD"  #: The exit record in the unwinder's environment.

_MAX_SURVIVORS = 20  #: More would not fit into the reserved space.
_LONGEST_ERROR = 300  #: Characters of an error that would make a record too long.


class ExitRecorder:
    """
    The facts of one agent's life, written as soon as they are known.

    Attributes:
        cause: What began the agent's end; "exit" until another cause comes first.
        is_written: Whether the last exit record is on disk.
    """

    def __init__(self, exit_file: str, events: str, secret: str = "") -> None:
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
        self.is_written = False
        self._secret = secret
        self._reserves = list(RESERVES)

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
        _replace(self._started_file, _encode(facts))
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

    def all_exited(
        self, *, tree_empty: bool, forced: bool, survivors: Sequence[tuple[int, int]] = ()
    ) -> None:
        """
        Record that the shutdown is over; *tree_empty*: proved, no descendant is alive.

        *survivors* are the pids and start times of descendants that are alive after SIGKILL.
        Only a record of an empty tree has the secret: no process of the agent is left to read it.
        """
        if tree_empty and self._secret:
            self._facts["secret"] = self._secret
        if survivors:
            self._facts["survivors"] = [list(process) for process in survivors[:_MAX_SURVIVORS]]
        self._write(tree_empty=tree_empty, forced=forced)
        self._send_event("exited")

    def save(self, path: str, more: Mapping[str, object]) -> bool:
        """Write the exit record and *more* facts to another place; return whether that worked."""
        return _replace(path, _encode({**self._facts, **more}))

    def _write(self, *, tree_empty: bool, forced: bool) -> None:
        self._facts |= {"cause": self.cause, "contained": tree_empty, "forced": forced}
        record = self.encoded()
        directory = self._exit_file.rpartition("/")[0]
        self.is_written = False
        while self._reserves and not self.is_written:
            self.is_written = _overwrite(
                f"{directory}/{self._reserves.pop(0)}", self._exit_file, record
            )
        self.is_written = self.is_written or _replace(self._exit_file, record)

    def encoded(self) -> bytes:
        """Return the exit record as JSON, short enough for the reserved space."""
        record = _encode(self._facts)
        if len(record) > RESERVED_BYTES:
            record = _encode(self._facts | {"error": str(self._facts["error"])[:_LONGEST_ERROR]})
        return record

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


def _replace(path: str, data: bytes) -> bool:
    """Write *data* to a new file and rename it to *path*; return whether that was done."""
    flags = posix.O_CREAT | posix.O_TRUNC
    return _overwrite(f"{path}.new", path, data, flags)


def _overwrite(source: str, path: str, data: bytes, flags: int = 0) -> bool:
    """
    Write *data* into the file *source* and rename it to *path*; return whether that was done.

    False: the disk is full, or another process has ended the agent and removed the directory.
    """
    try:
        fd = posix.open(source, flags | posix.O_WRONLY | posix.O_NOFOLLOW | posix.O_CLOEXEC, 0o600)
        try:
            if posix.pwrite(fd, data, 0) != len(data):
                return False  # The disk is full.
            posix.ftruncate(fd, len(data))
        finally:
            posix.close(fd)
        posix.rename(source, path)
    except OSError:
        return False
    return True


def _encode(facts: Mapping[str, object]) -> bytes:
    text = ", ".join(f'"{key}": {_json(value)}' for key, value in facts.items())
    return f"{{{text}}}\n".encode()


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
