"""
The floor of a sweep: one call to tmux and one read of each process, by hand.

The floor compares nothing.
"""

# ruff: noqa: PTH208 - the floor is bare

from __future__ import annotations

import os
import subprocess


def look(tmux: str, socket: str, mark: bytes) -> tuple[int, int]:
    """Return how many panes and how many marked processes there are."""
    return len(panes(tmux, socket)), sum(map(bool, processes(mark)))


def panes(tmux: str, socket: str) -> list[bytes]:
    done = subprocess.run(
        [
            *(tmux, "-u", "-N", "-f", "/dev/null", "-S", socket, "list-panes", "-a", "-F"),
            "#{pid}:#{pane_id}:#{pane_pid}:#{session_name}:#{@orchestrator_owner}",
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8"},
        cwd="/",
        check=True,
    )
    return done.stdout.splitlines()


def processes(mark: bytes):
    """Read the identity of each process, and whether its environment has the mark."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                _read(f"/proc/{name}/stat").split()
                yield mark in _read(f"/proc/{name}/environ")
            except OSError:
                continue


def _read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.read(fd, 65536)
    finally:
        os.close(fd)
