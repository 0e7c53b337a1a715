"""
Registries: the documents for people, tools and orchestrators to read about agents.

One JSON document per task holds its agents, live and ended. One per root holds the live
agents of all tasks, and counts of the ended, so that it does not grow with the past.

- :mod:`.document`: the JSON layout of a document, its versions, and the two schemas.
- :mod:`.registry`: :class:`Registry`, which updates a document in a transaction and
  quarantines damage; :mod:`.group_commit`: how an update becomes durable.
- :mod:`.operations`: the changes when an agent comes, reports and goes.
- :mod:`.snapshot_cache` and :mod:`.partial_parse`: readers of many documents, and of
  damaged ones.
"""

from __future__ import annotations

from orchestrator_core.registry.document import GLOBAL, TASK, Document, Schema, new_global
from orchestrator_core.registry.registry import Quarantined, Registry

__all__ = ["GLOBAL", "TASK", "Document", "Quarantined", "Registry", "Schema", "new_global"]
