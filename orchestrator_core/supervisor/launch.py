"""
The launch file: a supervisor's configuration, as ``name=value`` entries.

Every entry ends with a NUL, as in ``/proc/PID/environ``, so a value may contain any byte
that an argument or an environment may contain. A repeated name is a list. The deployer
creates the file with mode 0600; the supervisor deletes it after the commit, before the
agent runs.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import Any

_TRAILER = b"\0end=\0"  #: The last entry. A file without it is incomplete.

# The attribute of each entry, by the type of its value.
_TEXTS = {
    **{name: name for name in ("journal", "log", "stdin", "cwd", "events", "cgroup")},
    "exit": "exit_file",
    "resident": "sweeper_lock",
}
_SECONDS = ("term_s", "kill_s", "linger_s", "deadline_s")
_LISTS = {"arg": "argv", "heir": "unwinder_argv"}
_ENVIRONMENTS = {"env": "env", "heirenv": "unwinder_env"}


class Launch:
    """
    The agent to run, and the program that the supervisor becomes afterwards.

    Attributes:
        journal: The saga's journal: the lock, and the commit that opens the gate.
        log: The agent's standard output and error. The file must exist.
        exit_file: Where the supervisor writes, by rename, how the agent ended.
        events: A FIFO for events; it needs no reader.
        argv: The agent's command, all placeholders replaced.
        env: The agent's whole environment.
        cwd: The directory in which the agent runs.
        stdin: The file that is the agent's standard input.
        cgroup: The directory of the agent's cgroup, if there is one.
        term_s: Seconds from SIGTERM to SIGKILL.
        kill_s: Seconds from SIGKILL until the supervisor reports survivors.
        linger_s: Seconds that the agent may run after it has requested its own end.
        deadline_s: Seconds that the agent may run at all; None for no limit.
        sweeper_lock: The file that a running sweeper has locked.
        unwinder_argv: The command of the unwinder that the supervisor becomes.
        unwinder_env: The unwinder's whole environment.
    """

    def __init__(  # noqa: PLR0913 - each is an entry of the file
        self,
        *,
        journal: str,
        log: str,
        exit_file: str,
        events: str,
        argv: Sequence[str],
        env: Mapping[str, str],
        cwd: str = "/",
        stdin: str = "/dev/null",
        cgroup: str | None = None,
        term_s: float = 2.0,
        kill_s: float = 2.0,
        linger_s: float = 1.0,
        deadline_s: float | None = None,
        sweeper_lock: str | None = None,
        unwinder_argv: Sequence[str] = (),
        unwinder_env: Mapping[str, str] | None = None,
    ) -> None:
        self.journal, self.log = journal, log
        self.exit_file, self.events = exit_file, events
        self.argv, self.env = list(argv), dict(env)
        self.cwd, self.stdin, self.cgroup = cwd, stdin, cgroup
        self.term_s, self.kill_s = term_s, kill_s
        self.linger_s, self.deadline_s = linger_s, deadline_s
        self.sweeper_lock = sweeper_lock
        self.unwinder_argv, self.unwinder_env = list(unwinder_argv), dict(unwinder_env or {})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Launch) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]  # a launch is mutable


def read(path: str) -> Launch:
    """
    Read a launch file.

    Raises:
        OSError: The file cannot be read.
        ValueError: The file is not a launch file.
    """
    with open(path, "rb", buffering=0) as file:
        return decode(file.readall())


def encode(launch: Launch) -> bytes:
    """
    Return the content of *launch*'s file.

    Raises:
        ValueError: A value contains a NUL, or the name of a variable contains a ``=``.
    """
    entries = list(_entries(launch))
    for entry in entries:
        if "\0" in entry:
            name, _, value = entry.partition("=")
            raise ValueError(f"a NUL in {name} cannot reach a process: {value[:80]!r}")
    return "\0".join(entries).encode(*_file_system_encoding()) + _TRAILER


def decode(data: bytes) -> Launch:
    """
    Return the launch whose file contains *data*.

    Raises:
        ValueError: An entry is missing, or is not an entry.
    """
    if not data.endswith(_TRAILER):
        raise ValueError("the launch file is cut short")
    lists: dict[str, list[str]] = {"env": []}
    for entry in data[: -len(_TRAILER)].decode(*_file_system_encoding()).split("\0"):
        name, equals, value = entry.partition("=")
        if not equals:
            raise ValueError(f"not an entry of a launch file: {name[:80]!r}")
        lists.setdefault(name, []).append(value)
    values: dict[str, Any] = {_LISTS[name]: lists[name] for name in _LISTS.keys() & lists}
    values |= {_TEXTS[name]: lists[name][-1] for name in _TEXTS.keys() & lists}
    values |= {name: float(lists[name][-1]) for name in _SECONDS if name in lists}
    for name, attribute in _ENVIRONMENTS.items():
        values[attribute] = dict([entry.split("=", 1) for entry in lists.get(name, ())])
    try:
        return Launch(**values)
    except TypeError as missing:
        raise ValueError(f"the launch file is incomplete: {missing}") from None


def _entries(launch: Launch) -> Iterator[str]:
    values = vars(launch)
    for name, attribute in _TEXTS.items():
        if values[attribute] is not None:
            yield f"{name}={values[attribute]}"
    for name in _SECONDS:
        if values[name] is not None:
            yield f"{name}={float(values[name])!r}"
    for name, attribute in _LISTS.items():
        yield from (f"{name}={value}" for value in values[attribute])
    for name, attribute in _ENVIRONMENTS.items():
        yield from (f"{name}={entry}" for entry in _format_env(values[attribute]))


def _format_env(env: Mapping[str, str]) -> Iterable[str]:
    for name, value in env.items():
        if not name or "=" in name:
            raise ValueError(f"not the name of an environment variable: {name[:80]!r}")
        yield f"{name}={value}"


def _file_system_encoding() -> tuple[str, str]:
    """Return the encoding of ``os.fsencode``, with which any bytes survive a round trip."""
    return sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()
