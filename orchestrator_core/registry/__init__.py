"""
Registries: the documents in which people, tools and orchestrators look things up.

One JSON document per task holds its agents, live and ended; one per root holds
the live agents of all tasks, and totals of the ended, so that it does not grow
with the past. :class:`Registry` keeps any such document whole through crashes
and crowds; :mod:`.kinds` says what is in the two.
"""

from __future__ import annotations

from orchestrator_core.registry.document import Document, Schema
from orchestrator_core.registry.schema import (
    GLOBAL,
    TASK,
    global_registry,
    new_global,
    task_registry,
)
from orchestrator_core.registry.store import Quarantined, Registry

__all__ = [
    "GLOBAL",
    "TASK",
    "Document",
    "Quarantined",
    "Registry",
    "Schema",
    "global_registry",
    "new_global",
    "task_registry",
]
