"""
The resident sweeper's parts: what wakes it, what it does, what it tells.

======== ======================================================================
changes  file events of a root's directories
roster   the agents that are watched, each by a hold on its supervisor
chores   acts in threads of their own, few at once, bounded in time
beat     the heartbeat: what the sweeper last knew of itself, for others to read
health   what a heartbeat, and the process behind it, say
notify   words to the service manager that has started us
service  a systemd unit and a launchd plist that run it
======== ======================================================================

:class:`orchestrator_core.operations.sweeper.Sweeper` puts them together.
"""
