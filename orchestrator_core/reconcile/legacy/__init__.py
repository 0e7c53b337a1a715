"""
Agents of the system that this one replaces: read, proved, adopted, ended.

Such an agent has a record, files under the usual names and a session on the
user's default tmux server; no journal, no supervisor, no cookie. Nothing of
its is touched by reading it. To end it:

1. :mod:`.reading` tells what its record says, whatever is missing there;
2. :mod:`.proving` looks at the world: does it live, and by which proofs is what
   lives there the agent's? One proof is none, and "could not ask" ends nobody;
3. :mod:`.adopting` makes a journal for it, from the proofs and from the names
   that its id leads to; from then on it is an agent like any other, and the
   one mechanism that ends agents ends it: :mod:`.session` has the one step
   that differs.
"""

from __future__ import annotations

from orchestrator_core.reconcile.legacy.agent import LegacyAgent, is_legacy, legacy_agents

__all__ = ["LegacyAgent", "is_legacy", "legacy_agents"]
