"""
The sweep: find what no saga accounts for, and sagas without an owner; reap both.

============== ==================================================================
run            one sweep: snapshot, detect, confirm by a second snapshot, reap
snapshot       one snapshot of sessions, processes, registries and files
saga_snapshot  the open journals, and whether the kernel confirms them
named_files    the files, run directories and cgroups that are named after agents
detect         findings from one snapshot; pure. Its part: orphans
reap           end a finding through the saga that holds it, or that adopts it
adopt          a saga for an agent's leftovers
legacy_agents  the findings about agents that another system has recorded
findings       the values: a finding with its proofs, the table of kinds, the report
============== ==================================================================

A sweep without reaping changes nothing.
"""
