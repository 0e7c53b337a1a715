"""``python -m orchestrator_core``: the command line."""

from __future__ import annotations

from orchestrator_core.cli import run

if __name__ == "__main__":
    run()
