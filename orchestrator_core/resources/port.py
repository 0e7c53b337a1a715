"""
A TCP port for an agent, held without a process of ours that would have to live on.

A port is *claimed* by a symlink of its number in a directory that all roots of this user
share. The link leads to a file of the agent's own: whoever finds the file gone knows that
the claim is dead, and may take it over. A claim is made under a lock, and only if the port
can be bound at that moment, on every address.

What is held is our word, not the kernel's. While nobody listens on it, a program that asks
neither us nor the kernel's own choice of ports can bind it: another user's, another
container's, one with a number of its own. Then the agent cannot, and says so. From the
numbers that the kernel gives to whoever has no preference we take none.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from orchestrator_core.exceptions import InvalidInput, OrchestratorError
from orchestrator_core.resources.private_dir import (
    check_name,
    make_private,
    remove_if_empty,
    saga_dir,
)
from orchestrator_core.resources.provision import Provision
from orchestrator_core.saga import Outcome, Presence, receipt
from orchestrator_core.system import locks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator_core.saga import Context, Unwind

_FIRST, _LAST = 20000, 29999  #: Below what kernels choose from, and above what services have.
_PATIENCE_S = 10.0  #: For others who claim a port; each takes milliseconds.
_LARGEST = 65535


@receipt("reserved_port")
@attrs.frozen
class ReservedPortReceipt:
    """Who holds which port, and where that is claimed."""

    claims: str  #: The directory of all claims.
    holder: str  #: The file that a claim of ours leads to.
    number: int = 0  #: Known once it is claimed; the claim is found without.


@attrs.frozen
class ReservedPort:
    """
    A TCP port that no other agent on this machine is given, while this one lives.

    A free one of *within*, or *number* and no other. The agent finds it as ``{port}`` in its
    command and as ``PORT`` in its environment; with a *name*, which a second one needs, as
    ``{name}`` and ``NAME``. What that is worth, the module's text says: see there.

    *claims* is the directory that all must share who are not to get the same port: one of
    the user's own in ``/tmp``, unless it is given.
    """

    receipt_type = ReservedPortReceipt

    number: int | None = None
    within: tuple[int, int] = attrs.field(default=(_FIRST, _LAST), kw_only=True)
    name: str = attrs.field(
        default="", kw_only=True, validator=lambda _, __, name: check_name(name)
    )
    variable: str = attrs.field(default="", kw_only=True)
    claims: str | os.PathLike[str] | None = attrs.field(default=None, kw_only=True)
    directory: str | os.PathLike[str] | None = attrs.field(default=None, kw_only=True)

    def plan(self, ctx: Context) -> ReservedPortReceipt:
        """Name the holder. Which port it will be is known when it is claimed."""
        numbers = self._numbers()
        if not numbers or not 0 < min(numbers) <= max(numbers) <= _LARGEST:
            raise InvalidInput(f"there is no TCP port {self.number or self.within}")
        claims = self.claims or f"/tmp/orchestrator-core-{os.geteuid()}-ports"  # noqa: S108 - made private
        holder = saga_dir(ctx, self.directory) / f"{self.name or 'port'}.port"
        return ReservedPortReceipt(str(Path(claims).absolute()), str(holder))

    def do(self, receipt: ReservedPortReceipt) -> ReservedPortReceipt:
        """
        Claim the first port that is free.

        Raises:
            PortTaken: None is.
        """
        holder = Path(receipt.holder)
        make_private(holder.parent)
        with self._alone(receipt) as claims:
            holder.touch(mode=0o600, exist_ok=False)
            number = next((n for n in _shuffled(self._numbers()) if _is_free(claims, n)), None)
            if number is None:
                which = f"of {self.within}" if self.number is None else f"{self.number}"
                raise PortTaken(f"no port {which} can be had: claimed in {claims}, or in use")
            (claims / str(number)).symlink_to(holder)
        return attrs.evolve(receipt, number=number)

    def provide(self, receipt: ReservedPortReceipt) -> Provision:
        """Tell which it is."""
        name = self.name or "port"
        number = str(receipt.number)
        return Provision(
            environment={self.variable or name.upper(): number}, placeholders={name: number}
        )

    def undo(self, receipt: ReservedPortReceipt, _why: Unwind) -> Outcome:
        """Take our claim away, whichever port it is for, and nobody else's."""
        holder = Path(receipt.holder)
        ours: list[Path] = []
        if Path(receipt.claims).is_dir():
            with self._alone(receipt):
                ours = _claims_of(receipt)
                for claim in ours:
                    claim.unlink()
        was_there = holder.exists() or bool(ours)
        holder.unlink(missing_ok=True)  # Last: a claim whose holder is gone is anybody's.
        remove_if_empty(holder.parent)
        ports = [int(claim.name) for claim in ours]
        return Outcome.undone(ports=ports) if was_there else Outcome.absent()

    def probe(self, receipt: ReservedPortReceipt) -> Presence:
        """Look for our claim."""
        if not Path(receipt.claims).is_dir():
            return Presence.ABSENT
        if _claims_of(receipt):
            return Presence.OURS
        taken = receipt.number and os.path.lexists(Path(receipt.claims, str(receipt.number)))
        return Presence.FOREIGN if taken else Presence.ABSENT

    def _numbers(self) -> range:
        if self.number is not None:
            return range(self.number, self.number + 1)
        first, last = self.within
        return range(first, last + 1)

    @contextlib.contextmanager
    def _alone(self, receipt: ReservedPortReceipt) -> Iterator[Path]:
        """Keep all others from claiming a port, or giving one back."""
        claims = Path(receipt.claims)
        make_private(claims)
        with locks.locked(claims / "claims", timeout_s=_PATIENCE_S, what="the claims of ports"):
            yield claims


class PortTaken(OrchestratorError):
    """There is no such port to be had."""

    code = "port-taken"
    default_hint = "name other numbers, or end who has them: ss -ltnp shows who listens"


def _claims_of(receipt: ReservedPortReceipt) -> list[Path]:
    claims = Path(receipt.claims)
    if receipt.number:
        named = [claims / str(receipt.number)]
    else:  # A crash may have come before it was known.
        named = [claim for claim in claims.iterdir() if claim.name.isdecimal()]
    return [claim for claim in named if _link_target(claim) == receipt.holder]


def _link_target(claim: Path) -> str | None:
    try:
        return str(claim.readlink())
    except OSError:
        return None


def _is_free(claims: Path, number: int) -> bool:
    """Tell whether nobody claims a port or has it; a dead claim is cleared away."""
    claim = claims / str(number)
    if os.path.lexists(claim):
        try:
            claim.stat()
        except (FileNotFoundError, NotADirectoryError):
            claim.unlink()
        except OSError:
            return False  # It cannot be told whether its holder is there.
        else:
            return False
    return all(_can_be_bound(family, number) for family in (socket.AF_INET, socket.AF_INET6))


def _can_be_bound(family: socket.AddressFamily, number: int) -> bool:
    """Tell whether a port is free on all addresses of a family, or that there are none."""
    try:
        with socket.socket(family, socket.SOCK_STREAM) as trial:
            if family is socket.AF_INET6:
                trial.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            # Without SO_REUSEADDR: what is not quite free yet is not free.
            trial.bind(("", number))
    except OSError as error:
        return error.errno in {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}
    return True


def _shuffled(numbers: range) -> list[int]:
    """Return the numbers in no order, without those that the kernel may give to anybody."""
    first, last = _ephemeral_range()
    ours = [number for number in numbers if not first <= number <= last]
    return random.sample(ours or numbers, len(ours or numbers))


def _ephemeral_range() -> tuple[int, int]:
    try:
        told = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text()
        first, last = map(int, told.split())
    except (OSError, ValueError):
        return 49152, 65535  # What IANA leaves for that.
    return first, last
