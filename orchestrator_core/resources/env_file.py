"""Secrets for an agent: in a private file and in its environment, and nowhere else."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from orchestrator_core.exceptions import InvalidInput
from orchestrator_core.resources.private_dir import (
    check_name,
    is_there,
    make_private,
    remove_if_empty,
    saga_dir,
)
from orchestrator_core.resources.provision import Provision
from orchestrator_core.saga import Outcome, Presence, receipt

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator_core.saga import Context, Unwind

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@receipt("env_file")
class EnvFileReceipt:
    """Where the file is, and what is named in it: never a value."""

    path: str
    names: tuple[str, ...] = ()


def _check(_: object, __: object, values: Mapping[str, str]) -> None:
    for name, value in values.items():
        if _VARIABLE.fullmatch(name) is None:
            raise InvalidInput(f"{name!r:.80} is not the name of a variable")
        if "\0" in value:
            raise InvalidInput(f"the value of {name} cannot be passed on")  # and is not shown


@attrs.frozen
class EnvFile:
    """
    Secrets, in a file that only its owner can read, for as long as the agent lives.

    They reach the agent's environment through its launch file, which is as private and is
    gone when the agent runs: no journal, registry, log or command line ever has a value.
    The file itself is ``{env_file}`` in the agent's command (or ``{name}``), for tools that
    want one; its lines are as a POSIX shell reads them: ``NAME='value'``.

    Whoever runs as the same user can read the environment of the agent, and the file.
    """

    receipt_type = EnvFileReceipt

    values: Mapping[str, str] = attrs.field(factory=dict, repr=False, validator=_check)
    name: str = attrs.field(
        default="", kw_only=True, validator=lambda _, __, name: check_name(name)
    )
    directory: str | os.PathLike[str] | None = attrs.field(default=None, kw_only=True)

    def plan(self, ctx: Context) -> EnvFileReceipt:
        """Name the file."""
        place = saga_dir(ctx, self.directory)
        return EnvFileReceipt(str(place / f"{self.name or 'env_file'}.env"), tuple(self.values))

    def do(self, receipt: EnvFileReceipt) -> EnvFileReceipt:
        """Write it."""
        make_private(Path(receipt.path).parent)
        lines = [f"{name}={shlex.quote(value)}\n" for name, value in self.values.items()]
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(receipt.path, flags, 0o600), "wb") as file:  # noqa: PTH123 - a descriptor
            file.write("".join(lines).encode())
        return receipt

    def provide(self, receipt: EnvFileReceipt) -> Provision:
        """Hand the values on; and where the file is."""
        return Provision(
            environment=dict(self.values), placeholders={self.name or "env_file": receipt.path}
        )

    def undo(self, receipt: EnvFileReceipt, _why: Unwind) -> Outcome:
        """Delete it."""
        path = Path(receipt.path)
        was_there = is_there(path)
        path.unlink(missing_ok=True)
        remove_if_empty(path.parent)
        return Outcome.undone() if was_there else Outcome.absent()

    def probe(self, receipt: EnvFileReceipt) -> Presence:
        """Look for it; nobody else has its name."""
        return Presence.OURS if is_there(receipt.path) else Presence.ABSENT
