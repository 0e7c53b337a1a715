"""
A saga of your own: it holds a git worktree and a port, or neither.

No agents and no tmux are involved. Each step defines how its resource is taken and given
back. The saga guarantees all or nothing, through exceptions and ``kill -9``.

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
    """A checkout of a repository, in a new directory."""

    repository: str
    path: str


class AddWorktree:
    """Check a repository out into a new worktree."""

    receipt_type = Worktree

    def plan(self, ctx: Context) -> Worktree:
        """Fix the path, which is all that an undo needs."""
        git(ctx.values["repository"], "rev-parse", "--quiet", "--git-dir")  # refused in time
        path = STATE.absolute() / "worktrees" / ctx.saga_id
        return Worktree(repository=ctx.values["repository"], path=str(path))

    def do(self, tree: Worktree) -> Worktree:
        """Create the worktree."""
        git(tree.repository, "worktree", "add", "--detach", "--quiet", tree.path)
        return tree

    def undo(self, tree: Worktree, _why: Unwind) -> Outcome:
        """Remove the worktree, whether it is complete, partial or missing."""
        existed = exists(tree.path)
        if existed:
            shutil.rmtree(tree.path)
        git(tree.repository, "worktree", "prune")
        return Outcome.undone() if existed else Outcome.absent()

    def probe(self, tree: Worktree) -> Presence:
        """Return whether the path exists."""
        return Presence.OURS if exists(tree.path) else Presence.ABSENT


@receipt("example.port")
class Port:
    """A TCP port that no other saga here gets while its file exists."""

    number: int
    claim: str


class ClaimPort:
    """Claim a free port for a server that is to be started later."""

    receipt_type = Port

    def plan(self, ctx: Context) -> Port:
        """Find a free port."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            number = free.getsockname()[1]
        claim = STATE.absolute() / "ports" / f"{number}.{ctx.saga_id}"
        return Port(number=number, claim=str(claim))

    def do(self, port: Port) -> Port:
        """Claim the port. Of two sagas that found the same one, the first gets it."""
        claim = Path(port.claim)
        claim.parent.mkdir(parents=True, exist_ok=True)
        claim.touch()
        if [other for other in claim.parent.glob(f"{port.number}.*") if other != claim]:
            raise RuntimeError(f"port {port.number} belongs to another saga")
        return port

    def undo(self, port: Port, _why: Unwind) -> Outcome:
        """Remove the claim; no other saga's claim has this name."""
        try:
            Path(port.claim).unlink()
        except FileNotFoundError:
            return Outcome.absent()
        return Outcome.undone()

    def probe(self, port: Port) -> Presence:
        """Return whether the claim exists."""
        return Presence.OURS if exists(port.claim) else Presence.ABSENT


def exists(path: str) -> bool:
    """Return whether the path exists. If that is unknown, raise OSError."""
    try:
        os.lstat(path)
    except FileNotFoundError:
        return False
    return True


STEPS: list[Step[Any]] = [AddWorktree(), ClaimPort()]


def take(sagas: Sagas, repository: str) -> None:
    """Take both, durably. After an exception neither is held."""
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
    """Undo every saga that a dead process did not commit."""
    for name, report in sagas.recover().unwound.items():
        print(name, [f"{step.step} {step.result}" for step in report.steps])


def git(repository: str, *arguments: str) -> None:
    """Run git; its own message is the error."""
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
