"""The machine: durable files, locks, clocks, processes, and the terminal."""
