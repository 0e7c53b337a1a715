"""
What a supervisor is told: one small file, and no format but ``name=value``.

Every entry ends with a NUL, as in ``/proc/PID/environ``, so that a value may
hold anything an argument or an environment may hold. A repeated name is a list.
The file is 0600 and short-lived: the supervisor removes it when it has read it.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


_TRAILER = b"\0end=\0"  #: Without its last entry a file is not whole.


class Launch:
    """
    One agent to run, and what to become afterwards.

    Attributes:
        journal: The saga's journal: the lock, and the commit that opens the gate.
        log: Becomes the agent's standard output and error. It must exist.
        exit_file: Where the witness writes, by rename, how the agent ended.
        events: A FIFO for the news; nobody need listen.
        argv: The agent's command, every placeholder replaced.
        env: The agent's whole environment.
        cwd: Where it runs.
        stdin: A file for its standard input.
        cgroup: The directory of its own cgroup, if one was made.
        term_s: From SIGTERM to SIGKILL.
        kill_s: From SIGKILL until survivors are admitted.
        linger_s: How long it may go on after it asked for its own end.
        deadline_s: How long it may live at all; None for ever.
        sweeper_lock: The file that a resident sweeper locks while it is awake.
        unwinder_argv: The argv of the unwinder to become.
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
        stdin: str = os.devnull,
        cgroup: str | None = None,
        term_s: float = 2.0,
        kill_s: float = 2.0,
        linger_s: float = 1.0,
        deadline_s: float | None = None,
        sweeper_lock: str | None = None,
        unwinder_argv: Sequence[str] = (),
        unwinder_env: Mapping[str, str] | None = None,
    ) -> None:
        self.journal = journal
        self.log = log
        self.exit_file = exit_file
        self.events = events
        self.argv = list(argv)
        self.env = dict(env)
        self.cwd = cwd
        self.stdin = stdin
        self.cgroup = cgroup
        self.term_s = term_s
        self.kill_s = kill_s
        self.linger_s = linger_s
        self.deadline_s = deadline_s
        self.sweeper_lock = sweeper_lock
        self.unwinder_argv = list(unwinder_argv)
        self.unwinder_env = dict(unwinder_env or {})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Launch) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]  # two equal ones may differ tomorrow


def write(path: str, launch: Launch) -> None:
    """
    Write *launch* to a new file at *path*, for its owner only.

    Raises:
        ValueError: A value holds a NUL, or a name of the environment a ``=``.
        OSError: Among others, there is a file already.
    """
    rest = encode(launch)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        while rest:
            rest = rest[os.write(fd, rest) :]
    finally:
        os.close(fd)


def read(path: str) -> Launch:
    """
    Read what :func:`write` wrote.

    Raises:
        OSError: It cannot be read.
        ValueError: It is not such a file.
    """
    with open(path, "rb", buffering=0) as file:
        return decode(file.readall())


def encode(launch: Launch) -> bytes:
    """Return *launch* as the bytes of its file."""
    entries = _entries(launch)
    whole = "\0".join(entries)
    if whole.count("\0") >= len(entries):
        name, _, value = next(entry for entry in entries if "\0" in entry).partition("=")
        raise ValueError(f"a NUL in {name} cannot reach a process: {value[:80]!r}")
    return os.fsencode(whole) + _TRAILER


def decode(data: bytes) -> Launch:
    """
    Build the launch again.

    Raises:
        ValueError: Something is missing, or is not an entry.
    """
    found: dict[str, list[str]] = {}
    if not data.endswith(_TRAILER):
        raise ValueError("the launch file is cut short")
    for entry in os.fsdecode(data[: -len(_TRAILER)]).split("\0"):
        name, equals, value = entry.partition("=")
        if not equals:
            raise ValueError(f"not an entry of a launch file: {name[:80]!r}")
        found.setdefault(name, []).append(value)
    try:
        return Launch(
            journal=found["journal"][-1],
            log=found["log"][-1],
            exit_file=found["exit"][-1],
            events=found["events"][-1],
            argv=found["arg"],
            env=_parse_env(found.get("env", [])),
            cwd=found["cwd"][-1],
            stdin=found["stdin"][-1],
            cgroup=found.get("cgroup", [None])[-1],
            term_s=float(found["term_s"][-1]),
            kill_s=float(found["kill_s"][-1]),
            linger_s=float(found["linger_s"][-1]),
            deadline_s=float(found["deadline_s"][-1]) if "deadline_s" in found else None,
            sweeper_lock=found.get("resident", [None])[-1],
            unwinder_argv=found.get("heir", []),
            unwinder_env=_parse_env(found.get("heirenv", [])),
        )
    except KeyError as missing:
        raise ValueError(f"the launch file has no {missing.args[0]!r}") from None


def _entries(launch: Launch) -> list[str]:
    entries = [
        f"journal={launch.journal}",
        f"log={launch.log}",
        f"stdin={launch.stdin}",
        f"cwd={launch.cwd}",
        f"exit={launch.exit_file}",
        f"events={launch.events}",
        f"term_s={float(launch.term_s)!r}",
        f"kill_s={float(launch.kill_s)!r}",
        f"linger_s={float(launch.linger_s)!r}",
    ]
    if launch.cgroup is not None:
        entries.append(f"cgroup={launch.cgroup}")
    if launch.deadline_s is not None:
        entries.append(f"deadline_s={float(launch.deadline_s)!r}")
    if launch.sweeper_lock is not None:
        entries.append(f"resident={launch.sweeper_lock}")
    entries += [f"arg={value}" for value in launch.argv]
    entries += [f"env={name}={value}" for name, value in _checked(launch.env).items()]
    entries += [f"heir={value}" for value in launch.unwinder_argv]
    entries += [f"heirenv={name}={value}" for name, value in _checked(launch.unwinder_env).items()]
    return entries


def _checked(env: Mapping[str, str]) -> Mapping[str, str]:
    for name in env:
        if not name or "=" in name:
            raise ValueError(f"not the name of an environment variable: {name[:80]!r}")
    return env


def _parse_env(assignments: Iterable[str]) -> dict[str, str]:
    return dict([assignment.split("=", 1) for assignment in assignments])  # One is always there.
