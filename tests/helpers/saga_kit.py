"""
Steps without agents, and a reader of journals that is independent of the package.

:class:`Thing` is held in memory, for tests of what the engine does. :class:`OnDisk` is a
file, so that it outlives the process that is killed.
"""

import json
import os
import zlib
from pathlib import Path

import attrs

from orchestrator_core.saga import KeepCommitted, Outcome, Presence, receipt

# --- in memory -------------------------------------------------------------------------------


@receipt("kit.thing")
class ThingReceipt:
    name: str
    owner: str
    serial: int = 0


@attrs.define
class Shelf:
    """The things that are held, with their owners by name. Its calls can be made to fail."""

    held: dict = attrs.field(factory=dict)
    calls: list = attrs.field(factory=list)  #: The calls, in order.
    failing: dict = attrs.field(factory=dict)  #: Errors to raise, by ("do" | "undo", name).
    reasons: list = attrs.field(factory=list)

    def fail(self, verb, name, *errors):
        self.failing[verb, name] = list(errors)

    def record(self, verb, name):
        self.calls.append(f"{verb} {name}")
        errors = self.failing.get((verb, name))
        if errors:
            raise errors.pop(0)

    def things(self, *names):
        return [Thing(self, name) for name in names]


@attrs.frozen
class Thing:
    """A thing on a shelf."""

    shelf: Shelf
    name: str = "thing"
    receipt_type = ThingReceipt

    def plan(self, ctx):
        return ThingReceipt(name=self.name, owner=ctx.saga_id)

    def do(self, receipt):
        self.shelf.record("do", receipt.name)
        self.shelf.held[receipt.name] = receipt.owner
        return attrs.evolve(receipt, serial=len(self.shelf.calls))

    def undo(self, receipt, why):
        self.shelf.reasons.append(why)
        self.shelf.record("undo", receipt.name)
        if self.shelf.held.get(receipt.name, receipt.owner) != receipt.owner:
            return Outcome.left()
        if self.shelf.held.pop(receipt.name, None) is None:
            return Outcome.absent()
        return Outcome.undone(serial=receipt.serial)

    def probe(self, receipt):
        owner = self.shelf.held.get(receipt.name)
        if owner is None:
            return Presence.ABSENT
        return Presence.OURS if owner == receipt.owner else Presence.FOREIGN


# --- on disk ---------------------------------------------------------------------------------


@receipt("kit.file")
class FileReceipt:
    path: str
    owner: str


@attrs.frozen
class OnDisk:
    """A file with its owner's name in it, which outlives a killed process."""

    name: str = "file"
    receipt_type = FileReceipt

    def plan(self, ctx):
        place = ctx.values["place"]
        return FileReceipt(path=f"{place}/{ctx.saga_id}.{self.name}", owner=ctx.saga_id)

    def do(self, receipt):
        fd = os.open(receipt.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.write(fd, receipt.owner.encode())
        finally:
            os.close(fd)
        return receipt

    def undo(self, receipt, _why):
        try:
            os.unlink(receipt.path)  # noqa: PTH108 - `os` calls are where the tests break in
        except FileNotFoundError:
            return Outcome.absent()
        return Outcome.undone()

    def probe(self, receipt):
        return Presence.OURS if os.path.lexists(receipt.path) else Presence.ABSENT


NAMES = ("cellar", "walls", "roof")


def on_disk():
    """Return the steps of a saga that holds three files."""
    return [OnDisk(name) for name in NAMES]


def policy(**methods):
    """Return the default policy of recovery, with some of its methods replaced."""
    return type("Policy", (KeepCommitted,), {k: staticmethod(v) for k, v in methods.items()})()


# --- an independent reader ---------------------------------------------------------------------


def lines_of(path):
    """Read a journal by hand: its lines up to the first damaged one."""
    lines = []
    for raw in Path(path).read_bytes().split(b"\n"):
        body, mark, crc = raw.rpartition(b',"crc":"')
        if not mark or b'%08x"}' % zlib.crc32(body) != crc:
            break
        lines.append(json.loads(raw))
    return lines


def kinds_of(path):
    return [line["kind"] for line in lines_of(path)]


def seal(**line):
    """Return one journal line, made by hand."""
    body = json.dumps(line, separators=(",", ":")).encode()[:-1]
    return body + b',"crc":"%08x"}\n' % zlib.crc32(body)


def open_journals(sagas):
    return sorted(path.name for path in Path(sagas).glob("*.jsonl"))


def closed_journals(sagas):
    return sorted(path.name for path in Path(sagas, "closed").glob("*.jsonl"))


def litter(sagas):
    """Return the names of the files that lie among journals and are none."""
    return sorted(
        path.name for path in Path(sagas).iterdir() if path.is_file() and path.suffix != ".jsonl"
    )


def stands(sagas, saga_id):
    """Return "committed", "closed" or "never" for a saga; any other word is an error."""
    closed, path = Path(sagas, "closed", f"{saga_id}.jsonl"), Path(sagas, f"{saga_id}.jsonl")
    if closed.exists():
        return "closed" if kinds_of(closed)[-1] == "close" and not path.exists() else "odd"
    if not path.exists():
        return "never"
    kinds = kinds_of(path)
    return "committed" if kinds[-1] == "commit" else f"open after {kinds[-1]}"


def snapshot(place):
    """Return every file below *place* with its content."""
    return {
        str(path.relative_to(place)): path.read_bytes()
        for path in sorted(Path(place).rglob("*"))
        if path.is_file()
    }
