"""
What a service manager is given to run the sweeper: a systemd user unit, a launchd plist.

Both start this interpreter on this root, whatever characters their paths hold,
with what of our environment it takes to find tmux and this package again.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import attrs

from orchestrator_core.exceptions import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_KEPT = ("PATH", "PYTHONPATH", "ORCHESTRATOR_CONTAINMENT")
_WATCHDOG_S = 90  #: Three heartbeats.
_NO_PROGRAM = "\"'\\"


@attrs.frozen(kw_only=True)
class Service:
    """One root's sweeper, as a service manager is to run it."""

    root: Path
    root_id: str
    python: str = sys.executable
    env: Mapping[str, str] = attrs.field(factory=lambda: _kept(os.environ))

    @property
    def name(self) -> str:
        """What it is to be called: each root has its own."""
        return f"orchestrator-core-{self.root_id}"

    @property
    def argv(self) -> tuple[str, ...]:
        """The command that it runs."""
        # -P: whatever lies in the working directory is not imported.
        program = (self.python, "-P", "-m", "orchestrator_core")
        return (*program, "--root", str(self.root), "sweep", "--watch")

    def systemd(self) -> str:
        """Return a unit for ``systemctl --user``."""
        environment = "".join(
            f"Environment={_quoted(f'{name}={value}')}\n" for name, value in self.env.items()
        )
        argv = self.argv
        if set(self.python) & set(_NO_PROGRAM) or not self.python.isprintable():
            argv = ("/bin/sh", "-c", 'exec "$0" "$@"', *argv)  # systemd runs no such program.
        # The colon: no "$" in it is a variable.
        command = ":" + " ".join(map(_quoted, argv))
        return _UNIT.format(
            name=self.name,
            root="".join(map(_escaped, str(self.root))),
            environment=environment,
            command=command,
            watchdog_s=_WATCHDOG_S,
        )

    def launchd(self) -> str:
        """
        Return a property list for ``launchctl``.

        Raises:
            InvalidInput: A path holds what no XML can: control characters, no Unicode.
        """
        import plistlib  # noqa: PLC0415 - for this alone

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
            raise InvalidInput(f"no property list can hold it: {error}") from error


_UNIT = """\
# Save as ~/.config/systemd/user/{name}.service, then:
#   systemctl --user daemon-reload
#   systemctl --user enable --now {name}.service
#   loginctl enable-linger      (so that it runs while nobody is logged in)

[Unit]
Description=orchestrator-core: the resident sweeper of {root}
# A safety net is never given up on.
StartLimitIntervalSec=0

[Service]
Type=notify
{environment}WorkingDirectory=/
ExecStart={command}
Restart=always
RestartSec=5
# Bad usage, a bad orchestrator.toml: starting it again mends neither.
RestartPreventExitStatus=2
WatchdogSec={watchdog_s}
TimeoutStopSec=10

[Install]
WantedBy=default.target
"""


def _kept(env: Mapping[str, str]) -> dict[str, str]:
    kept = {name: env[name] for name in _KEPT if env.get(name)}
    if "PYTHONPATH" in kept:  # A checkout's; the service has another working directory.
        places = map(os.path.abspath, kept["PYTHONPATH"].split(os.pathsep))
        kept["PYTHONPATH"] = os.pathsep.join(places)
    return kept


def _quoted(text: str) -> str:
    """Return *text* as one word of a unit file, whatever it holds."""
    return '"' + "".join(map(_escaped, text)) + '"'


def _escaped(char: str) -> str:
    if char in '"\\':
        return f"\\{char}"
    if char == "%":
        return "%%"
    if char.isprintable():
        return char
    return "".join(f"\\x{byte:02x}" for byte in os.fsencode(char))
