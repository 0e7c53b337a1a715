"""
A TCP port for an agent, reserved without a process that would have to live on.

A *claim* is a symlink, named after the port, in a directory that all roots of this user
share. The link leads to a file of the agent. If that file is gone, the claim is dead, and
the next process takes it over. A claim is made under a lock, and only if the port can be
bound at that time, on every address.

A claim binds the processes that read claims, not the kernel. While the agent does not
listen, a program outside this scheme can bind the port: a program of another user, of
another container, or with a fixed port number. The agent's own bind then fails. Ports that
the kernel assigns to programs without a preference are never claimed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pwd
import random
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from orchestrator_core.exceptions import InvalidInput, OrchestratorError
from orchestrator_core.resources import private_dir
from orchestrator_core.resources.provision import Provision
from orchestrator_core.saga import Context, Outcome, Presence, Unwind, receipt
from orchestrator_core.saga.verification import naming_id
from orchestrator_core.system import durable, locks, paths

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_FIRST, _LAST = 20000, 29999  #: Below the kernels' ephemeral ranges, above the services' ports.
_LOCK_TIMEOUT_S = 10.0  #: The wait for other claims; each takes milliseconds.
_LARGEST = 65535


@receipt("reserved_port")
@attrs.frozen
class ReservedPortReceipt:
    """The claim: its port, its directory and its holder."""

    claims: str  #: The directory of all claims.
    holder: str  #: The file to which this agent's claim leads.
    number: int = 0  #: Known after the claim. The undo finds the claim without it.

    def owned_claims(self) -> list[Path]:
        """Return the claims that lead to the holder; none if another user has the directory."""
        if not _is_usable(Path(self.claims)):
            return []
        # Of any port: the deployer may have died before it wrote the number down.
        links = [claim for claim in Path(self.claims).iterdir() if claim.is_symlink()]
        return [claim for claim in links if str(claim.readlink()) == self.holder]


@attrs.frozen
class ReservedPort(private_dir.PrivateDirOptions):
    """
    A TCP port that no other agent on this machine gets, for as long as this agent lives.

    The port is a free one of *within*, or *number* and no other. In the agent's command it is
    ``{port}``, in its environment ``PORT``; with a *name*, which a second one needs,
    ``{name}`` and ``NAME``. *variable* overrides the variable's name. The module's docstring
    describes the limits of the reservation.

    All processes that share *claims*, a directory, get different ports. Without *claims* it is
    a directory that only this user can replace: in the user's runtime directory
    (``/run/user/UID``) if there is one, else in ``/tmp`` or in the home directory. The claims in
    all three count.
    """

    receipt_type = ReservedPortReceipt

    number: int | None = None
    within: tuple[int, int] = attrs.field(default=(_FIRST, _LAST), kw_only=True)
    variable: str = attrs.field(default="", kw_only=True)
    claims: str | os.PathLike[str] | None = attrs.field(default=None, kw_only=True)

    def plan(self, ctx: Context) -> ReservedPortReceipt:
        """Fix the holder's path. The port is known after ``do``."""
        numbers = self._numbers()
        if not numbers or not 0 < min(numbers) <= max(numbers) <= _LARGEST:
            raise InvalidInput(f"there is no TCP port {self.number or self.within}")
        claims = self.claims or _choose_claims()
        holder = self.saga_dir(ctx) / f"{self.name or 'port'}.port"
        return ReservedPortReceipt(str(paths.absolute("the directory", claims)), str(holder))

    def do(self, receipt: ReservedPortReceipt) -> ReservedPortReceipt:
        """
        Claim a free port, chosen at random.

        Raises:
            PortTaken: No port is free.
        """
        holder = Path(receipt.holder)
        private_dir.make_private(holder.parent)
        with _locked_claims(receipt) as claims:
            holder.touch(mode=0o600, exist_ok=False)
            others = _other_claims(claims)
            free = (n for n in _shuffled(self._numbers()) if _is_free(claims, n, others))
            number = next(free, None)
            if number is None:
                which = f"of {self.within}" if self.number is None else f"{self.number}"
                raise PortTaken(f"no port {which} is free: each is claimed in {claims}, or in use")
            (claims / str(number)).symlink_to(holder)
        return attrs.evolve(receipt, number=number)

    def provide(self, receipt: ReservedPortReceipt) -> Provision:
        """Return the port, as a variable and a placeholder."""
        name, number = self.name or "port", str(receipt.number)
        return Provision(
            environment={self.variable or name.upper(): number}, placeholders={name: number}
        )

    def verify(
        self, receipt: ReservedPortReceipt, saga_id: str, labels: Mapping[str, Any]
    ) -> ReservedPortReceipt:
        """Return the receipt, whose holder must lie in the saga's private directory."""
        private_dir.check_place(receipt.holder, naming_id(saga_id, labels))
        return receipt

    def undo(self, receipt: ReservedPortReceipt, _why: Unwind) -> Outcome:
        """Remove the agent's own claim, whichever its port, and no other."""
        owned: list[Path] = []
        private_dir.make_usable(Path(receipt.holder).parent)
        # A cleaner may have removed the directory, with the claim, and another user made it.
        if _is_usable(Path(receipt.claims)):
            with _locked_claims(receipt):
                owned = receipt.owned_claims()
                for claim in owned:
                    claim.unlink()
        holder = Path(receipt.holder)
        existed = durable.exists(holder) or bool(owned)
        private_dir.remove(holder)  # Last: any process may take a claim without a holder.
        private_dir.remove_if_empty(holder.parent)
        ports = [int(claim.name) for claim in owned]
        return Outcome.undone(ports=ports) if existed else Outcome.absent()

    def probe(self, receipt: ReservedPortReceipt) -> Presence:
        """Return whose the claim is."""
        if not _is_usable(Path(receipt.claims)):
            return Presence.ABSENT
        if receipt.owned_claims():
            return Presence.OURS
        taken = receipt.number and durable.exists(Path(receipt.claims, str(receipt.number)))
        return Presence.FOREIGN if taken else Presence.ABSENT

    def _numbers(self) -> range:
        first, last = self.within if self.number is None else (self.number, self.number)
        return range(first, last + 1)


class PortTaken(OrchestratorError):
    """No such port is free."""

    code = "port-taken"
    default_hint = "name other ports, or stop the programs that have them (ss -ltnp lists them)"


@contextlib.contextmanager
def _locked_claims(receipt: ReservedPortReceipt) -> Iterator[Path]:
    claims = Path(receipt.claims)
    private_dir.make_private(claims)
    with locks.locked(claims / "claims", timeout_s=_LOCK_TIMEOUT_S, what="the claims of ports"):
        yield claims


def _shared_claims() -> list[Path]:
    """
    Return the possible directories of this user's claims, the best first.

    They do not depend on the environment, which a client of MCP does not pass on.
    """
    user = os.geteuid()
    directories = [
        Path(f"/run/user/{user}/orchestrator-core/ports"),
        Path(f"/tmp/orchestrator-core-{user}-ports"),  # noqa: S108 - checked, and made private
    ]
    with contextlib.suppress(KeyError):  # A container's user may have no name.
        home = Path(pwd.getpwuid(user).pw_dir)
        # A home directory may be shared with other machines, which have ports of their own.
        directories.append(home / ".local/state/orchestrator-core/ports" / socket.gethostname())
    return directories


def _other_claims(claims: Path) -> list[Path]:
    """Return the other directories whose claims count; none beside a directory of the caller's."""
    shared = _shared_claims()
    return [other for other in shared if other != claims] if claims in shared else []


def _choose_claims() -> Path:
    """Return the first directory for claims that this user has, or can have."""
    possible = _shared_claims()
    for directory in possible:
        with contextlib.suppress(OSError):
            is_new = not directory.exists() and not directory.is_symlink()
            if _is_usable(directory) or (is_new and _can_be_made(directory.parent)):
                return directory
    return possible[-1]  # The error of making it explains the rest.


def _can_be_made(parent: Path) -> bool:
    """Return whether this user, and no other, can make and replace a directory in *parent*."""
    while not parent.exists():
        parent = parent.parent
    return os.access(parent, os.W_OK | os.X_OK) and not paths.why_replaceable(parent)


def _is_usable(claims: Path) -> bool:
    """Return whether a directory of claims exists, and is this user's alone."""
    try:
        status = claims.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    is_own = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
    return is_own and not status.st_mode & 0o077


def _is_free(claims: Path, number: int, others: Iterable[Path] = ()) -> bool:
    """Return whether a port is neither claimed nor in use. A dead claim is removed."""
    if any(_is_claimed(other / str(number)) for other in others):
        return False
    claim = claims / str(number)
    if _is_claimed(claim):
        return False
    claim.unlink(missing_ok=True)
    return all(_can_be_bound(family, number) for family in (socket.AF_INET, socket.AF_INET6))


def _is_claimed(claim: Path) -> bool:
    """Return whether the holder of a claim exists, or might."""
    try:
        claim.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True  # Whether the holder exists is unknown.
    return True


def _can_be_bound(family: socket.AddressFamily, number: int) -> bool:
    """Return whether a port is free on all addresses of a family; True without that family."""
    try:
        with socket.socket(family, socket.SOCK_STREAM) as trial:
            if family is socket.AF_INET6:
                trial.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            trial.bind(("", number))  # Without SO_REUSEADDR: TIME_WAIT is not free.
    except OSError as error:
        return error.errno in {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}
    return True


def _shuffled(numbers: range) -> list[int]:
    """Return the numbers in random order, without those that the kernel may assign."""
    first, last = _ephemeral_range()
    allowed = [number for number in numbers if not first <= number <= last]
    return random.sample(allowed or numbers, len(allowed or numbers))


def _ephemeral_range() -> tuple[int, int]:
    try:
        text = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text()
        first, last = map(int, text.split())
    except (OSError, ValueError):
        return 49152, 65535  # IANA's dynamic ports.
    return first, last
