"""
What a registry should say, from all that is known: a pure comparison of witnesses.

There are the document as it is, if it can be used; older copies of it, damaged
ones among them, of which this and that can be read; and the testimony of each
agent's journal. A document that is whole is right in all but what the journals
contradict: who is alive, who has ended, who never was. Of a damaged one, what was
fixed when an agent was deployed is taken from the journal, and the rest from
whatever can be read. What only one of them knows is kept: nothing is lost.
"""

from __future__ import annotations

from orchestrator_core.reconcile.merge.global_registry import merge_global
from orchestrator_core.reconcile.merge.task_registry import merge_task

__all__ = ["merge_global", "merge_task"]
