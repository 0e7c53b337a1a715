"""
The launch file: the configuration of a supervisor, and the command that starts one with it.

The deployer creates the file with mode 0600. The supervisor, which the same Python runs,
deletes it after the commit, before the agent runs. Its format is ``marshal``'s: that takes
no import, keeps every string, and refuses a truncated file.
"""

from __future__ import annotations

import marshal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


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
        attributes: The agent's umask, priority, limits and so on: :mod:`.process_attributes`.
        cgroup: The directory of the agent's cgroup, if there is one.
        term_s: Seconds from SIGTERM to SIGKILL.
        kill_s: Seconds from SIGKILL until the supervisor reports survivors.
        secret: What proves that the supervisor wrote the final exit record.
        linger_s: Seconds that the agent may run after it has requested its own end.
        deadline_s: Seconds that the agent may run at all; None for no limit.
        sweeper_lock: The file that a running sweeper has locked.
        unwinder_argv: The command of the unwinder that the supervisor becomes.
        unwinder_env: The unwinder's whole environment.
        rescue_dirs: Private directories of the user, for what is known when the root is removed.
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
        attributes: Mapping[str, object] | None = None,
        cgroup: str | None = None,
        term_s: float = 2.0,
        kill_s: float = 2.0,
        linger_s: float = 1.0,
        deadline_s: float | None = None,
        sweeper_lock: str | None = None,
        unwinder_argv: Sequence[str] = (),
        unwinder_env: Mapping[str, str] | None = None,
        rescue_dirs: Sequence[str] = (),
        secret: str = "",
    ) -> None:
        self.journal, self.log = journal, log
        self.exit_file, self.events = exit_file, events
        self.argv, self.env = list(argv), dict(env)
        self.cwd, self.stdin, self.cgroup = cwd, stdin, cgroup
        self.attributes = dict(attributes or {})
        self.term_s, self.kill_s = term_s, kill_s
        self.linger_s, self.deadline_s = linger_s, deadline_s
        self.sweeper_lock, self.secret = sweeper_lock, secret
        self.unwinder_argv, self.unwinder_env = list(unwinder_argv), dict(unwinder_env or {})
        self.rescue_dirs = list(rescue_dirs)


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
        ValueError: The system could not pass an argument or a variable to a process.
    """
    for value in (*launch.argv, *launch.env.values(), *launch.unwinder_env.values()):
        if "\0" in value:
            raise ValueError(f"a NUL cannot reach a process: {value[:80]!r}")
    for name in (*launch.env, *launch.unwinder_env):
        if not name or {"=", "\0"} & set(name):
            raise ValueError(f"not the name of an environment variable: {name[:80]!r}")
    return marshal.dumps(vars(launch))


def decode(data: bytes) -> Launch:
    """
    Return the launch whose file contains *data*.

    Raises:
        ValueError: The file is truncated, or is not a launch file.
    """
    try:
        return Launch(**marshal.loads(data))  # noqa: S302 - a file of this user alone
    except (EOFError, TypeError, ValueError) as error:
        raise ValueError(f"not a whole launch file: {error}") from None


UNWIND = "unwind"  #: The command of the unwinder; the agent's id follows.

BOOTSTRAP = (
    "import sys; sys.path.append(sys.argv[1]); "
    "from orchestrator_core.supervisor import main; main(sys.argv[2])"
)


def command(launch_path: str, *, python: str = sys.executable) -> list[str]:
    """
    Return the argv of a supervisor whose configuration is the file *launch_path*.

    *python* runs it. The argv contains no secret and no agent's id: every user can read a
    command line.
    """
    home = __file__.rsplit("/", 3)[0]
    return [python, "-I", "-S", "-c", BOOTSTRAP, home, launch_path]
