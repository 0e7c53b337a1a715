"""
Every benchmark here, in one table.

    script/bench [--rounds N] [--only NAME] [DIRECTORY]

Each module with a function `figures` is a benchmark. The benchmarks run one after another. The exit
code is 1 if a target was missed.
"""

from __future__ import annotations

import argparse
import importlib
import platform
import subprocess
import sys

from _figures import HERE, Figure, show

_ORDER = (
    "deploy",
    "saga",
    "registry",
    "start_up",
    "sweep",
    "recovery",
    "resident",
    "ends",
    "mcp_calls",
    "fake",
)


def main() -> int:
    parser = argparse.ArgumentParser(description="Run all benchmarks, and print one table.")
    parser.add_argument("directory", nargs="?", help="on the disk you mean; else a temporary one")
    parser.add_argument("--rounds", type=int, help="instead of each benchmark's own number")
    parser.add_argument("--only", action="append", choices=_ORDER, help="repeat for more")
    options = parser.parse_args()
    print(surroundings(), flush=True)
    found: list[Figure] = []
    for name in options.only or _ORDER:
        print(f"measuring {name} …", file=sys.stderr)
        benchmark = importlib.import_module(name)
        rounds = {} if options.rounds is None else {"rounds": options.rounds}
        found += benchmark.figures(options.directory, **rounds)
    show(found)
    return 0 if all(figure.is_met for figure in found) else 1


def surroundings() -> str:
    """Return a description of the machine."""
    tmux = subprocess.run(["tmux", "-V"], capture_output=True, text=True, check=True).stdout.strip()
    return f"{platform.platform()}, Python {platform.python_version()}, {tmux}, in {HERE.parent}"


if __name__ == "__main__":
    sys.exit(main())
