"""The limits on agents: how many at once, how many per task, how deep."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from orchestrator_core.exceptions import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Mapping


class Limits(NamedTuple):
    """
    The limits on agents.

    They are checked where agents are counted, under the registry's lock. Of two deployments
    that race for the last free place, one is refused.
    """

    max_concurrent: int = 20  #: Running at once, in all tasks.
    max_agents: int = 200  #: Ever deployed for one task.
    max_depth: int = 5  #: Below the orchestrator: its agents have depth 1, theirs 2.

    @classmethod
    def from_environment(cls, env: Mapping[str, str] | None = None) -> Limits:
        """
        Return the limits that the environment sets, under the old system's names.

        Raises:
            InvalidInput: A value is not a whole number of 1 or more.
        """
        env = os.environ if env is None else env
        given = {
            name: _limit(variable, env[variable])
            for name, variable in VARIABLES.items()
            if env.get(variable)
        }
        return cls(**given)


#: The environment variable of each limit, as the old system named it.
VARIABLES = {
    name: f"CLAUDE_ORCHESTRATOR_{name.upper()}"
    for name in ("max_concurrent", "max_agents", "max_depth")
}


_DIGITS = 9  #: More than enough; Python refuses to parse very long numbers.


def _limit(variable: str, value: str) -> int:
    number = value.strip()
    if not number.isdecimal() or len(number) > _DIGITS or int(number) < 1:
        raise InvalidInput(
            f"{variable} must be a whole number from 1 to {10**_DIGITS - 1}, not {value!r:.40}",
            hint=f"unset {variable}",
        )
    return int(number)
