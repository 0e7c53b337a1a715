"""What can be said on the command line to look after a root: sweep, keep, examine, mend."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable


def _sweep(sweep: argparse.ArgumentParser) -> None:
    how = sweep.add_mutually_exclusive_group()
    how.add_argument(
        "--dry-run", action="store_true", help="only tell what there is; this is the default"
    )
    how.add_argument("--reap", action="store_true", help="end what is ours by two proofs")
    how.add_argument("--watch", action="store_true", help="stay, and reap whatever is left")
    sweep.add_argument(
        "--silent-after", type=float, metavar="S", help="an agent without a sign of life so long"
    )
    sweep.add_argument(
        "--interval", type=float, metavar="S", help="with --watch: how often to look, unasked"
    )


def _service(service: argparse.ArgumentParser) -> None:
    service.add_argument("action", choices=["print"], help="print it, and touch nothing")
    manager = service.add_mutually_exclusive_group()
    for name, what in (("systemd", "a user unit"), ("launchd", "a property list")):
        manager.add_argument(
            f"--{name}", dest="manager", action="store_const", const=name, help=what
        )


def _stats(stats: argparse.ArgumentParser) -> None:
    stats.add_argument(
        "--format", choices=["text", "json", "prometheus"], default="text", help="how to print it"
    )


def _gc(gc: argparse.ArgumentParser) -> None:
    gc.add_argument("--dry-run", action="store_true", help="only tell what would go")


def _export(export: argparse.ArgumentParser) -> None:
    export.add_argument("task", metavar="TASK", help="its id")
    export.add_argument("file", metavar="FILE", help="a new file; compressed if it ends in .gz")
    export.add_argument("--remove", action="store_true", help="then take the task away")


def _repair(repair: argparse.ArgumentParser) -> None:
    which = repair.add_mutually_exclusive_group()
    which.add_argument("--task", metavar="ID", help="only this task's")
    which.add_argument("--global", dest="only_global", action="store_true", help="only the root's")
    how = repair.add_mutually_exclusive_group()
    how.add_argument(
        "--dry-run", action="store_true", help="only show the difference; this is the default"
    )
    how.add_argument("--yes", action="store_true", help="write it")


def _mcp(mcp: argparse.ArgumentParser) -> None:
    runs = mcp.add_mutually_exclusive_group()
    runs.add_argument(
        "--agent-command",
        action="append",
        default=[],
        metavar="CMD",
        help="what agents run: a command line; or repeat it, once for each argument",
    )
    runs.add_argument("--agent-preset", metavar="NAME", help="or: claude, codex, gemini")
    mcp.add_argument("--http", action="store_true", help="over HTTP on loopback, not stdio")
    mcp.add_argument("--port", type=int, metavar="N", help="8765 if it is not said; 0 is any")
    mcp.add_argument(
        "--token-file", metavar="F", help="who has what is in it may connect; made if it is missing"
    )


COMMANDS: dict[str, tuple[str, Callable[[argparse.ArgumentParser], None] | None]] = {
    "sweep": ("find what is left behind, and end it if asked to", _sweep),
    "health": ("tell whether the resident sweeper is alive and well", None),
    "service": ("print what runs the resident sweeper as a service", _service),
    "stats": ("count how cleaning up has gone", _stats),
    "gc": ("remove or compress what was kept for long enough", _gc),
    "export": ("write a finished task, whole, into one tar file", _export),
    "doctor": ("examine the root and the machine, and say what to do", None),
    "repair": ("put registries right by what the journals know", _repair),
    "mcp": ("serve the tools that agents know to MCP clients", _mcp),
}
"""What each is for, and what adds its arguments."""
