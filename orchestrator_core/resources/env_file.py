"""Secrets for an agent: in its environment and in a private file, and in no other place."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from orchestrator_core.exceptions import InvalidInput
from orchestrator_core.resources import private_dir
from orchestrator_core.resources.provision import Provision
from orchestrator_core.saga import Context, Outcome, Unwind, receipt
from orchestrator_core.system import durable

if TYPE_CHECKING:
    from collections.abc import Mapping

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@receipt("env_file")
class EnvFileReceipt:
    """The file's path, and the names in the file: never a value."""

    path: str
    names: tuple[str, ...] = ()


def _check(_: object, __: object, values: Mapping[str, str]) -> None:
    for name, value in values.items():
        if _VARIABLE.fullmatch(name) is None:
            raise InvalidInput(f"{name!r:.80} is not the name of a variable")
        if "\0" in value:  # An error must not show the value.
            raise InvalidInput(f"the value of {name} contains a NUL, which no process can receive")


@attrs.frozen
class EnvFile(private_dir.PrivateDirOptions):
    """
    Secrets in a file that only its owner can read, for as long as the agent lives.

    The values reach the agent's environment through its launch file, which is private too
    and is deleted before the agent runs. No journal, registry, log or command line ever
    contains a value. The file is ``{env_file}`` in the agent's command (or ``{name}``), for
    tools that need one. Its lines are POSIX shell: ``NAME='value'``.

    Every process of the same user can read the agent's environment, and the file.
    """

    receipt_type = EnvFileReceipt

    values: Mapping[str, str] = attrs.field(factory=dict, repr=False, validator=_check)

    def plan(self, ctx: Context) -> EnvFileReceipt:
        """Fix the file's path."""
        path = self.saga_dir(ctx) / f"{self.name or 'env_file'}.env"
        return EnvFileReceipt(str(path), tuple(self.values))

    def do(self, receipt: EnvFileReceipt) -> EnvFileReceipt:
        """Write the file."""
        private_dir.make_private(Path(receipt.path).parent)
        lines = [f"{name}={shlex.quote(value)}\n" for name, value in self.values.items()]
        durable.create(receipt.path, "".join(lines).encode(), durable=False)
        return receipt

    def provide(self, receipt: EnvFileReceipt) -> Provision:
        """Return the values as variables, and the file's path as a placeholder."""
        return Provision(
            environment=dict(self.values), placeholders={self.name or "env_file": receipt.path}
        )

    def undo(self, receipt: EnvFileReceipt, _why: Unwind) -> Outcome:
        """Delete the file."""
        path = Path(receipt.path)
        freed = private_dir.remove(path)
        private_dir.remove_if_empty(path.parent)
        return Outcome.absent() if freed is None else Outcome.undone()
