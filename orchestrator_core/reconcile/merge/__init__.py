"""
The merge: what a registry should contain, computed from all sources; pure.

The sources are the document as it is, if it can be used; other versions of it, damaged ones
among them, as far as each can be parsed; and the evidence from each agent's journal.

- A whole document stays as it is, except where a journal contradicts it: about whether
  an agent is alive, has ended, or never ran.
- In place of a damaged one, the fields fixed at deployment come from the journal, and the
  other fields from the newest version that has them.
- What only one source has is kept: nothing is lost.
"""
