"""
The agents of the legacy system, which this library replaces: read, proved, adopted, ended.

A legacy agent has a record, files under the usual names and a session on the user's
default tmux server. It has no journal, no supervisor and no cookie. Reading changes nothing
of it. Its end has three parts:

1. :mod:`.agent` reads its record, whatever is missing there.
2. :mod:`.proof` inspects the machine: is the agent alive, and which proofs show that what is
   alive is the agent's? One proof is not enough, and no agent is ended for an unknown state.
3. :mod:`.legacy_system` creates its journal, from the proofs and from the names that its id
   leads to. From then on every agent is ended in the same way; :mod:`.session_step` is the one
   step that differs.
"""
