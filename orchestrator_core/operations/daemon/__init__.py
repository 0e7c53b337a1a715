"""The resident sweeper: an event loop for one root, its heartbeat, and its service files."""
