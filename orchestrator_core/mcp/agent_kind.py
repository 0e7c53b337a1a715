"""
The program that a server's agents run: chosen by the server's owner, never by a model.

The owner gives an argv, or the name of a preset. A model gives the type, which is only a word
in an id, and the prompt, which goes to the program's standard input, or to Gemini CLI as the
value of one flag.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

import attrs

from orchestrator_core.exceptions import InvalidInput
from orchestrator_core.model.spec import AgentSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator_core.model.settings import Mcp

#: Not ``shell``: it would run the prompt, which a model gives.
PRESETS = ("claude", "codex", "gemini")

_COMMAND_HINT = (
    "its owner sets it: --agent-command, or in the user's own orchestrator.toml "
    '[mcp] agent_command = ["claude", "-p"]; one in the root counts once it is approved: '
    "orchestrator-core approve"
)


def _to_argv(command: Sequence[str] | None) -> tuple[str, ...]:
    if isinstance(command, str):
        raise InvalidInput(
            "the agents' command is one string", hint='give an argv: ["claude", "-p"]'
        )
    return tuple(command or ())


@attrs.frozen(kw_only=True)
class AgentKind:
    """
    The agents that one server deploys: their command or preset, and their time limits.

    Raises:
        InvalidInput: Both a command and a preset are given, or the preset is unknown.
    """

    command: tuple[str, ...] = attrs.field(default=(), converter=_to_argv)
    preset: str | None = None
    grace_s: float = 0.0  #: An agent that dies sooner is a failed deployment.
    deadline_s: float | None = None  #: An agent is ended after this time.
    linger_s: float | None = None  #: For it to exit by itself after it has reported its end.

    def __attrs_post_init__(self) -> None:
        if self.command and self.preset:
            raise InvalidInput(
                f"both a command ({self.command[0]}) and a preset ({self.preset}) are given",
                hint="give one of the two",
            )
        if self.preset is not None and self.preset not in PRESETS:
            raise InvalidInput(
                f"there is no preset {self.preset!r} for a server's agents",
                hint=f"use one of {PRESETS}",
            )

    def spec(self, *, kind: str, prompt: str, parent: str | None, cwd: str | None) -> AgentSpec:
        """
        Return the spec of an agent; *kind* is its type.

        Raises:
            InvalidInput: There is neither a command nor a preset, or the spec is invalid.
        """
        options: dict[str, Any] = {
            "type": kind,
            "prompt": prompt,
            "parent": parent,
            "cwd": cwd,
            "deadline_s": self.deadline_s,
            "linger_s": self.linger_s,
        }
        if self.preset is not None:
            spec: AgentSpec = getattr(AgentSpec, self.preset)(**options)
            return spec
        if not self.command:
            raise InvalidInput("this server has no command for its agents", hint=_COMMAND_HINT)
        return AgentSpec(command=self.command, **options)


def kind_from(
    settings: Mcp, *, command: Sequence[str] = (), preset: str | None = None
) -> AgentKind:
    """
    Return a server's agents: from the command line if it names any, else from the settings.

    A *command* of one string is split as a shell splits it; of more, each is one argument.

    Raises:
        InvalidInput: A command and a preset are given, or one of them is invalid.
    """
    if not command and not preset:
        command, preset = settings.agent_command, settings.agent_preset
    elif len(command) == 1:
        command = _split(command[0])
    return AgentKind(
        command=command,
        preset=preset,
        grace_s=settings.grace_s,
        deadline_s=settings.deadline_s,
        linger_s=settings.linger_s,
    )


def _split(command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError as error:
        raise InvalidInput(
            f"the agents' command {command!r} is quoted wrongly: {error}",
            hint="give --agent-command once for each argument",
        ) from error
