"""
What the agents of a server run: settled by whoever runs the server, never by a model.

By an argv, or by the name of a preset. A model names the type, which is only a word
in an id, and gives the prompt, which travels on standard input.
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

#: Not ``shell``: its prompt is its program, and a prompt is what a model gives.
PRESETS = ("claude", "codex", "gemini")

_HOW = (
    "whoever runs this server says it: --agent-command, or in orchestrator.toml "
    '[mcp] agent_command = ["claude", "-p"]'
)


def _argv_of(command: Sequence[str] | None) -> tuple[str, ...]:
    if isinstance(command, str):
        raise InvalidInput(
            "the agents' command is one string", hint='give an argv: ["claude", "-p"]'
        )
    return tuple(command or ())


@attrs.frozen(kw_only=True)
class AgentKind:
    """
    The agents that one server deploys: their command or preset, and their time.

    Raises:
        InvalidInput: A command and a preset, or a preset that there is not.
    """

    command: tuple[str, ...] = attrs.field(default=(), converter=_argv_of)
    preset: str | None = None
    grace_s: float = 0.0  #: A deployment whose agent dies sooner has failed.
    deadline_s: float | None = None  #: An agent is ended after so long.

    def __attrs_post_init__(self) -> None:
        if self.command and self.preset:
            raise InvalidInput(
                f"a command ({self.command[0]}) and a preset ({self.preset}) for the same agents",
                hint="give one of the two",
            )
        if self.preset is not None:
            _preset(self.preset)

    def spec(self, *, kind: str, prompt: str, parent: str | None, cwd: str | None) -> AgentSpec:
        """
        Return an agent of this kind to deploy.

        Raises:
            InvalidInput: Nobody has said what agents run; or no agent can be so.
        """
        about: dict[str, Any] = {"parent": parent, "cwd": cwd, "deadline_s": self.deadline_s}
        if self.preset is not None:
            made: AgentSpec = _preset(self.preset)(prompt=prompt, type=kind, **about)
            return made
        if not self.command:
            raise InvalidInput("this server has not been told what its agents run", hint=_HOW)
        return AgentSpec(type=kind, prompt=prompt, command=self.command, **about)


def _preset(name: str) -> Any:  # noqa: ANN401 - a class method of AgentSpec
    if name not in PRESETS:
        raise InvalidInput(
            f"there is no preset {name!r} for a server's agents", hint=f"use one of {PRESETS}"
        )
    return getattr(AgentSpec, name)


def kind_of(settings: Mcp, *, command: Sequence[str] = (), preset: str | None = None) -> AgentKind:
    """
    Return the agents of a server: as the command line says, or else as the settings do.

    A *command* of one string is taken apart as a shell does; of more, each is one argument.

    Raises:
        InvalidInput: The two contradict each other, or make no sense.
    """
    if not command and not preset:
        command, preset = settings.agent_command, settings.agent_preset
    else:
        command = _taken_apart(command)
    return AgentKind(
        command=command, preset=preset, grace_s=settings.grace_s, deadline_s=settings.deadline_s
    )


def _taken_apart(command: Sequence[str]) -> Sequence[str]:
    if len(command) != 1:
        return command
    try:
        return shlex.split(command[0])
    except ValueError as error:
        raise InvalidInput(
            f"the agents' command {command[0]!r} is quoted wrongly: {error}",
            hint="give --agent-command once for each argument",
        ) from error
