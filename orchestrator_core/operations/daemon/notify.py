"""Notifications to the service manager that has started this process: systemd's ``sd_notify``."""

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
    """A service manager that listens at a datagram socket; none, if *address* is empty."""

    address: str = ""
    watchdog_s: float | None = None  #: The manager restarts a process that is silent for so long.

    @classmethod
    def from_environment(cls, env: MutableMapping[str, str]) -> Self:
        """Return the manager that *env* names, and remove the variables: no child inherits them."""
        address, usec, pid = (
            env.pop(name, "") for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
        )
        is_watched = usec.isdecimal() and int(usec) > 0 and pid in ("", str(os.getpid()))
        return cls(address, int(usec) / 1e6 if is_watched else None)

    def notify(self, *messages: str) -> None:
        """Send the messages. A manager that does not listen is no error."""
        if not self.address:
            return
        name = f"\0{self.address[1:]}" if self.address.startswith("@") else self.address
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams,
        ):
            datagrams.setblocking(False)  # noqa: FBT003 - the socket's own signature
            datagrams.sendto("\n".join(messages).encode(), name)
