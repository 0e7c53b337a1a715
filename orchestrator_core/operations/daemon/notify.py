"""
Words to the service manager that has started us, if one has: systemd's ``sd_notify``.

A datagram to the socket that the environment names; nothing, if it names none.
"""

from __future__ import annotations

import contextlib
import os
import socket
from typing import TYPE_CHECKING, Self

import attrs

if TYPE_CHECKING:
    from collections.abc import MutableMapping


@attrs.frozen
class ServiceManager:
    """Whoever has started us, and wants to be told."""

    address: str = ""
    watchdog_s: float | None = None  #: It takes us for hung if it hears nothing for so long.

    @classmethod
    def from_environment(cls, env: MutableMapping[str, str]) -> Self:
        """Take it from an environment, which programs that we start are not to have it from."""
        address, usec, pid = (
            env.pop(name, "") for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
        )
        ours = usec.isdecimal() and pid in ("", str(os.getpid()))
        return cls(address, int(usec) / 1e6 if ours and int(usec) else None)

    def notify(self, *words: str) -> None:
        """Say so. Who does not listen is none of our business."""
        if not self.address:
            return
        name = f"\0{self.address[1:]}" if self.address.startswith("@") else self.address
        with contextlib.suppress(OSError), _datagrams() as to:
            to.sendto("\n".join(words).encode(), name)


def _datagrams() -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    made.settimeout(0)
    return made
