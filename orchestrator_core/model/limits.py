"""How many agents are too many."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from orchestrator_core.exceptions import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Mapping


class Limits(NamedTuple):
    """
    How many agents are too many.

    They are checked where agents are counted, under the registry's lock, so
    that of two deployments racing for the last place one is refused.
    """

    max_concurrent: int = 20  #: Alive at once, in all tasks.
    max_agents: int = 200  #: Ever deployed for one task.
    max_depth: int = 5  #: Below the orchestrator; its own agents are at 1, theirs at 2.

    @classmethod
    def from_environment(cls, env: Mapping[str, str] | None = None) -> Limits:
        """
        Return the limits that the environment sets, by the old system's names for them.

        Raises:
            InvalidInput: One of them is no number of agents.
        """
        env = os.environ if env is None else env
        given = {
            name: _limit(variable, env[variable])
            for name, variable in VARIABLES.items()
            if env.get(variable)
        }
        return cls(**given)


#: By what name the environment sets each, in the old system's words.
VARIABLES = {
    name: f"CLAUDE_ORCHESTRATOR_{name.upper()}"
    for name in ("max_concurrent", "max_agents", "max_depth")
}


_DIGITS = 9  #: More than any machine has agents; and Python refuses to read very long ones.


def _limit(variable: str, value: str) -> int:
    number = value.strip()
    if not number.isdecimal() or len(number) > _DIGITS or int(number) < 1:
        raise InvalidInput(
            f"{variable} is {value!r:.40}, which is no number of agents", hint=f"unset {variable}"
        )
    return int(number)
