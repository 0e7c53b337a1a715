"""
The floor of an end: the same processes ended, the same files moved, by hand.

The floor notifies the supervisor, waits for it, ends the session, moves the files to the archive
and updates both registries, each as durably as the library. The floor does not check for survivors:
that proof is a cost of the library.
"""

# ruff: noqa: PTH104, PTH106, PTH108, PTH208 - the floor is bare

from __future__ import annotations

import fcntl
import os
import select
import signal
import subprocess

from floor_deploy import Held, Site, replace, sync_directory

UNWIND = b'{"kind":"unwind","why":"' + b"x" * 160 + b'"}\n'
UNDONE = b'{"kind":"undone","of":"' + b"x" * 180 + b'"}\n'
CLOSE = b'{"kind":"close","report":"' + b"x" * 1060 + b'"}\n'


def terminate(site: Site, held: Held) -> None:
    journal = os.open(held.journal, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
    fcntl.flock(journal, fcntl.LOCK_EX)
    os.write(journal, UNWIND)
    os.fsync(journal)

    replace(site.registry / "GLOBAL.lock", site.registry / "GLOBAL.json", site.global_document)
    os.write(journal, UNDONE)
    replace(site.task / "AGENT.lock", site.task / "AGENT_REGISTRY.json", site.task_document)
    os.write(journal, UNDONE)

    end_processes(held)
    kill_session(site, held)
    os.write(journal, UNDONE)

    archive(site, held)
    os.write(journal, UNDONE)

    os.unlink(held.prompt)
    sync_directory(site.task)
    os.write(journal, UNDONE)

    # The record gets the whole report at the end.
    replace(site.task / "AGENT.lock", site.task / "AGENT_REGISTRY.json", site.task_document)
    os.write(journal, CLOSE)
    os.fsync(journal)
    os.rename(held.journal, site.sagas / "closed" / held.journal.name)
    sync_directory(site.sagas)
    os.close(journal)


def end_processes(held: Held) -> None:
    supervisor = os.pidfd_open(held.supervisor)
    signal.pidfd_send_signal(supervisor, signal.SIGTERM)
    if not select.select([supervisor], [], [], 10)[0]:
        raise RuntimeError("the floor's supervisor did not end")
    os.close(supervisor)
    if held.cgroup is not None:
        os.rmdir(held.cgroup)


def kill_session(site: Site, held: Held) -> None:
    subprocess.run(
        [
            *(site.tmux, "-u", "-N", "-f", "/dev/null", "-S", str(site.socket)),
            *("kill-session", "-t", f"=agent_{held.name}"),
        ],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,  # The server may have ended with its last process.
        env=site.environment,
        cwd="/",
        check=False,
    )


def archive(site: Site, held: Held) -> None:
    logs = (held.log, held.deploy_log)
    for path in logs:
        os.link(path, site.task / "archive" / path.name)
    sync_directory(site.task / "archive")
    for path in logs:
        os.unlink(path)
    sync_directory(site.task / "logs")
    for name in os.listdir(held.run):
        os.unlink(held.run / name)
    os.rmdir(held.run)
