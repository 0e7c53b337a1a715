"""
The floor of a deployment: the same files and fsyncs, the same tmux call, by hand.

Read it downwards: this has to happen before an agent runs and can be recovered after a
crash. The floor starts the same supervisor program, which waits at the same gate. The floor
checks nothing, knows no limits, undoes nothing, and its JSON is prepared as bytes.
"""

# ruff: noqa: PTH102, PTH104, PTH108, PTH109, TC003 - the floor is bare

from __future__ import annotations

import fcntl
import os
import select
import subprocess
from dataclasses import dataclass
from pathlib import Path

from orchestrator_core.supervisor.launch import Launch, command, encode

#: The number of bytes of a real deployment's lines.
INTENTS = b'{"kind":"begin"}\n' + b'{"kind":"intent","of":"' + b"x" * 2900 + b'"}\n'
DONE = b'{"kind":"done","of":"' + b"x" * 80 + b'"}\n'
COMMIT = b'{"kind":"commit","at":"2026-01-01T12:00:00.000+00:00","crc":"00000000"}\n'
DEPLOY_LOG = b"x" * 368


@dataclass
class Site:
    """The place of the floor's deployments."""

    sagas: Path
    task: Path
    registry: Path
    socket: Path
    cgroups: Path | None  #: Where cgroups can be made; None if nowhere.
    tmux: str
    environment: dict[str, str]  #: tmux's own.
    task_document: bytes = b"{}"
    global_document: bytes = b"{}"

    @classmethod
    def make(cls, root: Path, **known) -> Site:
        site = cls(root / "sagas", root / "TASK-floor", root / "registry", **known)
        for directory in (root, site.sagas, site.sagas / "closed", site.task, site.registry):
            directory.mkdir(mode=0o700)
        for name in ("logs", "run", "archive"):
            (site.task / name).mkdir(mode=0o700)
        for name in (site.task / "AGENT.lock", site.registry / "GLOBAL.lock"):
            name.touch(mode=0o600)
        return site

    @property
    def new(self) -> Path:
        """The name of a journal until its intents are on the disk."""
        return self.sagas / ".new"


@dataclass
class Held:
    """The resources of one deployment."""

    name: str
    journal: Path
    prompt: Path
    log: Path
    deploy_log: Path
    run: Path
    cgroup: Path | None
    supervisor: int


def deploy(site: Site, name: str, argv: list[str], prompt: bytes) -> Held:
    run = site.task / "run" / name
    held = Held(
        name=name,
        journal=site.sagas / f"{name}.jsonl",
        prompt=site.task / f"agent_prompt_{name}.txt",
        log=site.task / "logs" / f"{name}_stream.jsonl",
        deploy_log=site.task / "logs" / f"deploy_{name}.json",
        run=run,
        cgroup=None if site.cgroups is None else site.cgroups / f"oc_floor_{name}",
        supervisor=0,
    )
    journal = os.open(site.new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    fcntl.flock(journal, fcntl.LOCK_EX)
    os.write(journal, INTENTS)
    os.fsync(journal)
    os.link(site.new, held.journal)
    os.unlink(site.new)
    sync_directory(site.sagas)

    create(held.prompt, prompt)
    os.write(journal, DONE)

    create(held.log, b"")
    create(held.deploy_log, DEPLOY_LOG)
    os.mkdir(run, 0o700)
    os.mkfifo(run / "events", 0o600)
    create(run / "launch", encode(launch(held, argv)))
    os.write(journal, DONE)

    if held.cgroup is not None:
        os.mkdir(held.cgroup)
    held.supervisor = new_session(site, held)
    os.write(journal, DONE)

    replace(site.task / "AGENT.lock", site.task / "AGENT_REGISTRY.json", site.task_document)
    os.write(journal, DONE)
    replace(site.registry / "GLOBAL.lock", site.registry / "GLOBAL.json", site.global_document)
    os.write(journal, DONE)

    events = os.open(run / "events", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    os.write(journal, COMMIT)
    os.fsync(journal)
    os.close(journal)  # The gate opens.
    select.select([events], [], [], 10)
    if not os.read(events, 4096).startswith(b"started"):
        raise RuntimeError("the floor's agent did not start")
    os.close(events)
    return held


def launch(held: Held, argv: list[str]) -> Launch:
    return Launch(
        journal=str(held.journal),
        log=str(held.log),
        exit_file=str(held.run / "exit"),
        events=str(held.run / "events"),
        argv=argv,
        env=dict(os.environ),
        cwd=os.getcwd(),
        stdin=str(held.prompt),
        cgroup=None if held.cgroup is None else str(held.cgroup),
    )


def new_session(site: Site, held: Held) -> int:
    """Start the session with one tmux process; return the pid of its pane."""
    target = f"=agent_{held.name}:"
    done = subprocess.run(
        [
            *(site.tmux, "-u", "-N", "-f", "/dev/null", "-S", str(site.socket)),
            *("new-session", "-d", "-P", "-F", "#{pane_pid}", "-s", f"agent_{held.name}"),
            *("-c", "/", "-x", "200", "-y", "50", "-e", "ORCHESTRATOR_COOKIE=oc_floor"),
            *("--", *command(str(held.run / "launch")), ";"),
            *("set-option", "-t", target, "@orchestrator_owner", "oc_floor", ";"),
            *("set-option", "-t", target, "destroy-unattached", "off", ";"),
            *("set-option", "-w", "-t", target, "remain-on-exit", "off"),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env=site.environment,
        cwd="/",
        check=True,
    )
    return int(done.stdout)


def create(path: Path, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    os.write(fd, data)
    os.close(fd)


def replace(lock: Path, path: Path, data: bytes) -> None:
    """Replace a document durably, under the lock of its sibling."""
    locked = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
    fcntl.flock(locked, fcntl.LOCK_EX)
    temporary = f"{path}.tmp"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    os.write(fd, data)
    os.fsync(fd)
    os.close(fd)
    os.rename(temporary, path)
    os.close(locked)
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    os.fsync(fd)
    os.close(fd)
