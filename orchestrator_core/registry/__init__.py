"""
Registries: the documents for people, tools and orchestrators to read about agents.

One JSON document per task holds its agents, live and ended. One per root holds the live
agents of all tasks, and counts of the ended, so that it does not grow with the past.

- :mod:`.document`: the JSON layout, and its versions; :mod:`.schema`: the two schemas.
- :mod:`.registry`: :class:`Registry`, which updates a document in a transaction and
  quarantines damage; :mod:`.group_commit`: how an update becomes durable.
- :mod:`.operations`: the changes when an agent comes, reports and goes.
- :mod:`.snapshot_cache` and :mod:`.partial_parse`: readers of many documents, and of
  damaged ones.
"""

from __future__ import annotations

from orchestrator_core.registry.document import Document, Schema
from orchestrator_core.registry.registry import Quarantined, Registry
from orchestrator_core.registry.schema import GLOBAL, TASK, new_global

__all__ = ["GLOBAL", "TASK", "Document", "Quarantined", "Registry", "Schema", "new_global"]
