"""
Sagas of your own: a git worktree and a port, both held, or neither.

Nothing here knows of agents or of tmux. Each step says how its resource is taken
and given back; the saga sees to all or nothing, through exceptions and ``kill -9``.

::

    python examples/own_steps.py take REPOSITORY   # prints a name, the worktree, the port
    python examples/own_steps.py give-back NAME    # another process, another day
    python examples/own_steps.py recover           # after a crash, at any time
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from orchestrator_core.saga import Context, Outcome, Presence, Sagas, Step, Unwind, receipt

STATE = Path(".own-steps")


@receipt("example.worktree")
class Worktree:
    """A checkout of a repository, in a directory of its own."""

    repository: str
    path: str


class AddWorktree:
    """Check a repository out into a new worktree."""

    receipt_type = Worktree

    def plan(self, ctx: Context) -> Worktree:
        """Fix where it will be. The name is all that an undo needs, whatever came to be."""
        git(ctx.values["repository"], "rev-parse", "--quiet", "--git-dir")  # refused in time
        path = STATE.absolute() / "worktrees" / ctx.saga_id
        return Worktree(repository=ctx.values["repository"], path=str(path))

    def do(self, tree: Worktree) -> Worktree:
        """Make it."""
        git(tree.repository, "worktree", "add", "--detach", "--quiet", tree.path)
        return tree

    def undo(self, tree: Worktree, _why: Unwind) -> Outcome:
        """Remove it: all of it, half of it, or nothing at all."""
        was_there = is_there(tree.path)
        if was_there:
            shutil.rmtree(tree.path)
        git(tree.repository, "worktree", "prune")
        return Outcome.undone() if was_there else Outcome.absent()

    def probe(self, tree: Worktree) -> Presence:
        """Look for it."""
        return Presence.OURS if is_there(tree.path) else Presence.ABSENT


@receipt("example.port")
class Port:
    """A TCP port that nobody else here is given, while its file is there."""

    number: int
    claim: str


class ClaimPort:
    """Claim a free port for a server that is to be started later."""

    receipt_type = Port

    def plan(self, ctx: Context) -> Port:
        """Find a free one."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            number = free.getsockname()[1]
        claim = STATE.absolute() / "ports" / f"{number}.{ctx.saga_id}"
        return Port(number=number, claim=str(claim))

    def do(self, port: Port) -> Port:
        """Write down that it is taken. A port that two have found is the first one's."""
        claim = Path(port.claim)
        claim.parent.mkdir(parents=True, exist_ok=True)
        claim.touch()
        if [other for other in claim.parent.glob(f"{port.number}.*") if other != claim]:
            raise RuntimeError(f"port {port.number} is somebody else's")
        return port

    def undo(self, port: Port, _why: Unwind) -> Outcome:
        """Take our claim away; nobody else's has this name."""
        try:
            Path(port.claim).unlink()
        except FileNotFoundError:
            return Outcome.absent()
        return Outcome.undone()

    def probe(self, port: Port) -> Presence:
        """Look for the claim."""
        return Presence.OURS if is_there(port.claim) else Presence.ABSENT


def is_there(path: str) -> bool:
    """Tell whether anything has that name; what cannot be looked at raises, and is not gone."""
    try:
        os.lstat(path)
    except FileNotFoundError:
        return False
    return True


STEPS: list[Step[Any]] = [AddWorktree(), ClaimPort()]


def take(sagas: Sagas, repository: str) -> None:
    """Take both. If this returns, both are held, durably; if it raises, neither is."""
    name = f"work-{os.urandom(4).hex()}"
    with sagas.begin(name, STEPS, values={"repository": str(Path(repository).resolve())}) as saga:
        saga.run()
        saga.commit()
        print(name, saga.receipt(Worktree).path, saga.receipt(Port).number)


def give_back(sagas: Sagas, name: str) -> None:
    """Give both back, the last one first."""
    report = sagas.unwind(name, Unwind.terminal("no longer needed"))
    for step in report.steps:
        print(step.step, step.result)


def recover(sagas: Sagas) -> None:
    """Undo what was begun and never committed, by whomever."""
    for name, report in sagas.recover().unwound.items():
        print(name, [f"{step.step} {step.result}" for step in report.steps])


def git(repository: str, *arguments: str) -> None:
    """Run git, and let its own words be the error."""
    subprocess.run(
        ["git", "-C", repository, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        check=True,
    )


if __name__ == "__main__":
    every = Sagas(STATE / "sagas", steps=STEPS)
    match sys.argv[1:]:
        case ["take", repository]:
            take(every, repository)
        case ["give-back", name]:
            give_back(every, name)
        case ["recover"]:
            recover(every)
        case _:
            sys.exit(__doc__)
