"""
The floor of a saga: the same file operations, lines and fsyncs, by hand.

Read it downwards: a journal is made under a temporary name; its intents, its name
and its commit are fsynced; each step is a line with a checksum; an end is a reason,
five lines and a report, and the file is archived. There are no steps, no states
and no errors: nothing is planned, checked, undone or tried again.
"""

# ruff: noqa: PTH104, PTH108 - the floor is bare

from __future__ import annotations

import fcntl
import os
import time
import zlib

import msgspec

STEPS = [f"step-{number}" for number in range(5)]
_encode = msgspec.json.Encoder().encode


def line(kind: str, **data: object) -> bytes:
    at = time.strftime("%Y-%m-%dT%H:%M:%S.000+00:00", time.gmtime())
    body = _encode({"kind": kind, **data, "at": at})[:-1]
    return b'%s,"crc":"%08x"}\n' % (body, zlib.crc32(body))


def check(raw: bytes) -> dict:
    body, _, crc = raw.rpartition(b',"crc":"')
    if crc != b'%08x"}' % zlib.crc32(body):
        raise ValueError("damaged")
    return msgspec.json.decode(body + b"}")


class Place:
    """A directory of journals."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.new = f"{path}/.new"
        self.closed = f"{path}/closed"
        os.makedirs(self.closed)  # noqa: PTH103 - see above

    def begin(self, name: str) -> tuple[int, int]:
        fd = os.open(self.new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        lines = [line("begin", saga=name, labels={}, steps=STEPS)] + [
            line("intent", step=step, type="bench.nothing", version=1, receipt={"name": step})
            for step in STEPS
        ]
        end = os.pwrite(fd, b"".join(lines), 0)
        os.fsync(fd)
        os.link(self.new, f"{self.path}/{name}")
        os.path.lexists(f"{self.closed}/{name}")
        os.unlink(self.new)
        self._sync()
        return fd, end

    def _sync(self) -> None:
        directory = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        os.fsync(directory)
        os.close(directory)

    def commit(self, name: str) -> None:
        fd, end = self.begin(name)
        for step in STEPS:
            end += os.pwrite(fd, line("done", step=step, ms=0.001), end)
        os.pwrite(fd, line("commit"), end)
        os.fsync(fd)
        _let_go(fd)

    def end(self, name: str) -> None:
        fd = os.open(f"{self.path}/{name}", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.path.samestat(os.fstat(fd), os.lstat(f"{self.path}/{name}"))
        raw = os.read(fd, 1 << 20)
        for one in raw.splitlines():
            check(one)
        self.unwind(name, fd, len(raw))

    def unwind(self, name: str, fd: int, end: int) -> None:
        why = {"reason": "terminal", "message": "over", "detail": {}}
        end += os.pwrite(fd, line("unwind", why=why), end)
        os.fsync(fd)
        report = []
        for step in reversed(STEPS):
            came_to = {"result": "undone", "detail": {}}
            report.append(
                {"step": step, **came_to, "duration_ms": 0.001, "attempts": 1, "error": ""}
            )
            end += os.pwrite(fd, line("undone", step=step, outcome=came_to, ms=0.001), end)
        close = {"saga_id": name, "why": why, "steps": report, "closed": True, "duration_ms": 0.1}
        os.pwrite(fd, line("close", report=close), end)
        os.fsync(fd)
        os.rename(f"{self.path}/{name}", f"{self.closed}/{name}")
        self._sync()
        _let_go(fd)

    def fail(self, name: str) -> None:
        """Do what a saga does whose last step fails."""
        fd, end = self.begin(name)
        for step in STEPS[:-1]:
            end += os.pwrite(fd, line("done", step=step, ms=0.001), end)
        self.unwind(name, fd, end)


def _let_go(fd: int) -> None:
    fcntl.flock(fd, fcntl.LOCK_UN)
    os.close(fd)
