"""What is known about a resource: absent, ours, foreign, or unknown."""

from __future__ import annotations

import enum


class Presence(enum.Enum):
    """What is known about a resource."""

    ABSENT = "absent"
    OURS = "ours"
    FOREIGN = "foreign"  #: The resource exists and has another owner. Leave it alone.
    UNKNOWN = "unknown"  #: The system could not be asked. Leave the resource alone and report it.
