"""
The agents of the demonstration: small programs that do real work on a directory.

Each is run as ``python -P -m orchestrator_core.cli.demo.programs NAME`` with its
prompt on standard input and the directory as its own. They tell of themselves in
both ways there are: with the command line, and with the library. What they print
is their log.
"""

from __future__ import annotations

import collections
import itertools
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from orchestrator_core import Orchestrator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ENV_READY = "DEMO_READY"  #: A FIFO, closed by the one that hangs when it does.

_WORK_MARK = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
_ENOUGH = 3000  #: Files; this is only a demonstration.
_SKIPPED = {".git", ".venv", "node_modules", "__pycache__"}


def surveyor() -> None:
    """Count files and lines; finish by leaving with exit status 0."""
    lines: collections.Counter[str] = collections.Counter()
    files: collections.Counter[str] = collections.Counter()
    names = list(_files())
    for index, name in enumerate(names):
        kind = name.suffix or name.name
        text = _text(name)
        files[kind] += 1
        lines[kind] += text.count("\n")
        print(f"{text.count(chr(10)):6} {name}")
        if index == len(names) // 2:
            progress("working", f"half-way, at {name}", 50)
    common = ", ".join(f"{files[kind]} {kind}" for kind, _ in files.most_common(3))
    finding(
        f"{len(names)} files, {sum(lines.values()):,} lines: {common}",
        kind="size",
        data={"files": dict(files), "lines": dict(lines)},
    )
    progress("working", "all counted", 100)


def historian() -> None:
    """Read who wrote what; finish by reporting so from inside the session that then ends."""
    authors: collections.Counter[str] = collections.Counter(_git("log", "--format=%an"))
    progress("working", f"{authors.total()} commits read", 60)
    if authors:
        name, commits = authors.most_common(1)[0]
        message = f"{commits} of {authors.total()} commits are by {name}"
    else:
        message = "there is no history here"
    finding(message, kind="history", data=dict(authors))
    print(message, flush=True)
    progress("completed", "the history is read", 100)
    signal.pause()  # It has said that it is done; it is not for us to outlive that.


def reviewer() -> None:
    """Look for what is left to do, and crash on the way."""
    found = [
        f"{name}:{number}"
        for name in _files()
        for number, line in enumerate(_text(name).splitlines(), 1)
        if _WORK_MARK.search(line)
    ]
    progress("working", f"{len(found)} marks found; now to weigh them", 70)
    finding(f"{len(found)} places say TODO or FIXME", kind="todo", severity="low", data=found[:9])
    raise ZeroDivisionError("the reviewer cannot weigh what it has found")


def watcher() -> NoReturn:
    """Hang, deaf to all but SIGKILL, with children that have left the session."""
    for deaf in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
        signal.signal(deaf, signal.SIG_IGN)
    progress("blocked", "waiting for a file that never comes", 10)
    _start(os.setsid)  # another session, out of reach of a terminal's end
    _start(_detach)  # a daemon, with init or the supervisor for a parent
    # Its end of the FIFO closes: everything stands.
    Path(os.environ[ENV_READY]).write_bytes(b"ready")
    while True:
        signal.pause()


def _start(leave: Callable[[], object]) -> None:
    if os.fork() == 0:
        leave()
        while True:
            signal.pause()


def _detach() -> None:
    if os.fork():
        os._exit(0)
    os.setsid()


# --- telling of oneself ------------------------------------------------------------------


def progress(status: str, message: str, per_cent: int) -> None:
    """Report progress as any program can: with the command line, which knows where it is."""
    command = [sys.executable, "-P", "-m", "orchestrator_core", "progress", "--status", status]
    subprocess.run(
        [*command, "--message", message, "--progress", str(per_cent)],
        stdin=subprocess.DEVNULL,
        check=True,
    )


def finding(message: str, *, kind: str, severity: str = "info", data: object = None) -> None:
    """Report a finding as a program in Python can: with the library."""
    orch = Orchestrator(recover=False)
    orch.report_finding(message=message, finding_type=kind, severity=severity, data={kind: data})


# --- the directory ------------------------------------------------------------------------


def _files() -> Iterator[Path]:
    """Yield the files of the directory, enough of them: git's, if it is a repository."""
    listed = _git("ls-files", "-z", separator="\0")
    yield from itertools.islice(
        filter(Path.is_file, map(Path, listed) if listed else _walk()), _ENOUGH
    )


def _walk() -> Iterator[Path]:
    for directory, below, names in os.walk("."):
        below[:] = sorted(set(below) - _SKIPPED)
        yield from (Path(directory, name) for name in sorted(names))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _git(*arguments: str, separator: str = "\n") -> list[str]:
    """Return what git says; nothing, if there is no git or no repository."""
    try:
        asked = subprocess.run(
            ["git", *arguments], stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
    except FileNotFoundError:
        return []
    return [part for part in asked.stdout.decode(errors="replace").split(separator) if part]


AGENTS = {each.__name__: each for each in (surveyor, historian, reviewer, watcher)}

if __name__ == "__main__":
    sys.stdin.read()  # the prompt: these agents know what to do without
    AGENTS[sys.argv[1]]()
