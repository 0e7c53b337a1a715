"""
The processes that name a thing: in their arguments or in the environment they were started with.

The calling process and its ancestors do not count: a command names what a person asks about.
A process that the system hides (another user's) is not found.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from orchestrator_core.exceptions import CouldNotAsk
from orchestrator_core.supervisor import procfs
from orchestrator_core.system.boot import boot_id
from orchestrator_core.system.processes.protocol import Identity, Mention

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator


def find_mentions(words: Collection[str]) -> tuple[Mention, ...]:
    """
    Return each process that names one of *words*, once for each word, by one scan.

    Raises:
        CouldNotAsk: The table of processes cannot be read.
    """
    if not words:
        return ()
    wanted = {word: os.fsencode(word) for word in words}
    texts = _by_proc() if sys.platform == "linux" else _by_psutil()
    return tuple(
        Mention(process=process, name=name, word=word)
        for process, name, text in texts
        for word, encoded in wanted.items()
        if encoded in text
    )


def _by_proc() -> Iterator[tuple[Identity, str, bytes]]:
    pids = procfs.pids()
    if not pids:
        raise CouldNotAsk("/proc lists no process")
    own = set(_self_and_ancestors())
    for pid in pids:
        if pid in own:
            continue
        text = procfs.read(f"/proc/{pid}/cmdline") + b"\0" + procfs.environ(pid)
        stat = procfs.stat(pid)
        if stat is not None and not stat.is_dead:
            yield Identity(boot_id(), pid, stat.started), stat.comm, text


def _self_and_ancestors() -> Iterator[int]:
    pid = os.getpid()
    while pid > 0 and (stat := procfs.stat(pid)) is not None:
        yield pid
        pid = stat.ppid


def _by_psutil() -> Iterator[tuple[Identity, str, bytes]]:
    from orchestrator_core.system.processes import psutil_table  # noqa: PLC0415 - only without /proc

    own = psutil_table.self_and_ancestors()
    for pid, started, name, text in psutil_table.texts():
        if pid not in own:
            yield Identity(boot_id(), pid, started), name, text
