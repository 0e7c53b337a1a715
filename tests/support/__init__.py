"""
What the hardest tests share: an independent look at the world, and ways to break it.

Nothing in :mod:`.world` imports the library: what it sees, it sees through
``/proc``, through ``tmux`` asked by hand, and by reading files as JSON.
"""
