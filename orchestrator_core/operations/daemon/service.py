"""
The sweeper as a service: a systemd user unit, a launchd property list, and ``sd_notify``.

Both files start this interpreter on this root, with any characters in their paths, and with the
environment variables that are needed to find tmux and the user's configuration. As the unwinder,
the sweeper imports nothing from directories where agents may write.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from typing import TYPE_CHECKING, Self

import attrs

from orchestrator_core.exceptions import InvalidInput
from orchestrator_core.system.import_path import isolated_command

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping
    from pathlib import Path

_INHERITED = ("PATH", "ORCHESTRATOR_CONTAINMENT", "XDG_CONFIG_HOME")
_WATCHDOG_S = 90  #: Three heartbeats.
_REFUSED_IN_PROGRAM = "\"'\\"


@attrs.frozen(kw_only=True)
class Service:
    """The service of one root's sweeper."""

    root: Path
    root_id: str
    python: str = sys.executable
    env: Mapping[str, str] = attrs.field(factory=lambda: _inherited(os.environ))

    @property
    def name(self) -> str:
        """The name of the service, which is unique for each root."""
        return f"orchestrator-core-{self.root_id}"

    @property
    def argv(self) -> tuple[str, ...]:
        """The command of the service."""
        words = ("--root", str(self.root), "sweep", "--watch")
        return tuple(isolated_command(*words, python=self.python))

    def systemd(self) -> str:
        """Return a unit for ``systemctl --user``."""
        environment = "".join(
            f"Environment={_quote(f'{name}={value}')}\n" for name, value in self.env.items()
        )
        argv = self.argv
        if set(self.python) & set(_REFUSED_IN_PROGRAM) or not self.python.isprintable():
            argv = ("/bin/sh", "-c", 'exec "$0" "$@"', *argv)  # systemd refuses such a path.
        # The colon: systemd expands no "$" in it.
        command = ":" + " ".join(map(_quote, argv))
        return _UNIT.format(
            name=self.name,
            root="".join(map(_escape, str(self.root))),
            environment=environment,
            command=command,
            watchdog_s=_WATCHDOG_S,
        )

    def launchd(self) -> str:
        """
        Return a property list for ``launchctl``.

        Raises:
            InvalidInput: A path has characters that XML cannot represent.
        """
        import plistlib  # noqa: PLC0415 - for this method only

        document = {
            "Label": self.name,
            "ProgramArguments": list(self.argv),
            "EnvironmentVariables": dict(self.env),
            "WorkingDirectory": "/",
            "RunAtLoad": True,
            "KeepAlive": True,
            "ThrottleInterval": 10,
            "ProcessType": "Background",
            "StandardErrorPath": str(self.root / "registry" / "sweeper.log"),
        }
        try:
            return plistlib.dumps(document).decode()
        except ValueError as error:  # UnicodeEncodeError is one.
            raise InvalidInput(f"a path cannot be in a property list: {error}") from error


_UNIT = """\
# Save as ~/.config/systemd/user/{name}.service, then:
#   systemctl --user daemon-reload
#   systemctl --user enable --now {name}.service
#   loginctl enable-linger      (so that it runs without a login)

[Unit]
Description=orchestrator-core: the resident sweeper of {root}
# systemd restarts it however often it fails.
StartLimitIntervalSec=0

[Service]
Type=notify
{environment}WorkingDirectory=/
ExecStart={command}
Restart=always
RestartSec=5
# Bad usage or a bad orchestrator.toml: a restart repairs neither.
RestartPreventExitStatus=2
WatchdogSec={watchdog_s}
TimeoutStopSec=10

[Install]
WantedBy=default.target
"""


def _inherited(env: Mapping[str, str]) -> dict[str, str]:
    return {name: env[name] for name in _INHERITED if env.get(name)}


def _quote(text: str) -> str:
    """Return *text* as one word of a unit file."""
    return '"' + "".join(map(_escape, text)) + '"'


def _escape(char: str) -> str:
    if char in '"\\':
        return f"\\{char}"
    if char == "%":
        return "%%"
    if char.isprintable():
        return char
    return "".join(f"\\x{byte:02x}" for byte in os.fsencode(char))


# --- notifications --------------------------------------------------------------------------------


@attrs.frozen
class ServiceManager:
    """The service manager of this process, at a datagram socket; none, if *address* is empty."""

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
