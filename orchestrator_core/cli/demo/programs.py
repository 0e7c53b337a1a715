"""
The programs of the demonstration: four agents, and an orchestrator that dies.

Each runs as ``python -P -m orchestrator_core.cli.demo.programs NAME ARGUMENT…``. The agents
read the working directory, and report both by the command line and by the library. Their
output is their log.
"""

from __future__ import annotations

import collections
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

from orchestrator_core import AgentSpec, Orchestrator
from orchestrator_core.saga import Observer

# --- agents --------------------------------------------------------------------------------------


def surveyor(_ready: str) -> None:
    """Count files and lines, and exit with status 0."""
    texts = _texts()
    _progress("working", "all counted", 100)
    _finding("size", f"{len(texts)} files, {sum(text.count(chr(10)) for text in texts)} lines")


def historian(_ready: str) -> None:
    """Count the commits of each author, and report the end from inside the session."""
    authors = collections.Counter(_git("log --format=%an"))
    _finding("history", f"{authors.total()} commits by {len(authors)} authors")
    _progress("completed", "the history is read", 100)
    signal.pause()  # Its supervisor ends it.


def reviewer(_ready: str) -> None:
    """Look for open tasks, and crash."""
    _finding("todo", f"{sum(text.count('TODO') for text in _texts())} places say TODO")
    raise ZeroDivisionError("the reviewer cannot weigh what it has found")


def watcher(ready: str) -> None:
    """Hang, ignore HUP, TERM and INT, and have child processes outside the session."""
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    _progress("blocked", "waiting for a file that never comes", 10)
    if os.fork() == 0:
        os.setsid()  # A session without the terminal.
    elif os.fork() == 0:
        if os.fork():
            os._exit(0)
        os.setsid()  # A daemon: its parent is the supervisor.
    else:
        Path(ready).write_bytes(b"ready")
    while True:
        signal.pause()


def _progress(status: str, message: str, percent: int) -> None:
    """Report as a program in any language can: by the command line."""
    command = [sys.executable, "-P", "-m", "orchestrator_core", "progress", "--status", status]
    subprocess.run([*command, "--message", message, "--progress", str(percent)], check=True)


def _finding(kind: str, message: str) -> None:
    """Report as a program in Python can: by the library."""
    Orchestrator(recover=False).report_finding(message=message, finding_type=kind)


def _texts() -> list[str]:
    """Return the text of each file: git's, or all if there is no repository."""
    paths = [Path(name) for name in _git("ls-files")] or sorted(Path().rglob("*"))
    files = [path for path in paths if path.is_file()][:3000]
    return [path.read_text(encoding="utf-8", errors="replace") for path in files]


def _git(arguments: str) -> list[str]:
    """Return the lines of git's output; none without git or a repository."""
    command = ["sh", "-c", f"git {arguments}"]
    git = subprocess.run(command, capture_output=True, text=True, check=False)
    return git.stdout.splitlines()


# --- an orchestrator that dies -------------------------------------------------------------------


class _KillAfter(Observer):
    """Prints each step, and kills this process after *step*."""

    def __init__(self, step: str) -> None:
        self._step = step

    def step_done(self, saga_id: str, step: str, duration_ms: float) -> None:
        print(os.getpid(), saga_id, step, duration_ms, flush=True)
        if step == self._step:
            os.kill(os.getpid(), signal.SIGKILL)


def crash_after(step: str, root: str, task_id: str) -> None:
    """Deploy an agent, and be killed in the middle of it."""
    orch = Orchestrator(root, recover=False, observer=_KillAfter(step))
    spec = AgentSpec(type="orphan", prompt="You will never run.", command=["sleep", "3600"])
    orch.deploy(task_id, spec)


def _wait_for_start(place: Path) -> None:
    """Return when the demonstration has counted what its agents hold."""
    start = os.open(place, os.O_RDONLY)
    fcntl.flock(start, fcntl.LOCK_SH)
    os.close(start)


if __name__ == "__main__":
    agents = {each.__name__: each for each in (surveyor, historian, reviewer, watcher)}
    if sys.argv[1] in agents:
        _wait_for_start(Path(sys.argv[2]).parent)
    {**agents, "crash_after": crash_after}[sys.argv[1]](*sys.argv[2:])
