"""The arguments of the commands that look after a root, and of ``mcp``."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable


def add_seconds(
    to: argparse.ArgumentParser, name: str, text: str, default: float | None = None
) -> None:
    """Add an option that takes a duration in seconds; *text* is its help."""
    to.add_argument(name, type=float, default=default, metavar="S", help=text)


def _sweep(sweep: argparse.ArgumentParser) -> None:
    mode = sweep.add_mutually_exclusive_group()
    mode.add_argument("--dry-run", action="store_true", help="only list them; the default")
    mode.add_argument(
        "--reap", action="store_true", help="clean up leftovers that have two pieces of evidence"
    )
    mode.add_argument("--watch", action="store_true", help="run on, and reap each new leftover")
    add_seconds(sweep, "--silent-after", "report agents without a sign of life so long")
    add_seconds(sweep, "--interval", "with --watch: the time between full sweeps")


def _service(service: argparse.ArgumentParser) -> None:
    service.add_argument("action", choices=["print"], help="print it, and change nothing")
    manager = service.add_mutually_exclusive_group()
    for name, kind in (("systemd", "a user unit"), ("launchd", "a property list")):
        manager.add_argument(
            f"--{name}", dest="manager", action="store_const", const=name, help=kind
        )


def _stats(stats: argparse.ArgumentParser) -> None:
    stats.add_argument(
        "--format", choices=["text", "json", "prometheus"], default="text", help="the output format"
    )


def _gc(gc: argparse.ArgumentParser) -> None:
    gc.add_argument("--dry-run", action="store_true", help="only list what would be removed")


def _export(export: argparse.ArgumentParser) -> None:
    export.add_argument("task", metavar="TASK", help="its id")
    export.add_argument("file", metavar="FILE", help="a new file; compressed if it ends in .gz")
    export.add_argument("--remove", action="store_true", help="remove the task afterwards")


def _repair(repair: argparse.ArgumentParser) -> None:
    scope = repair.add_mutually_exclusive_group()
    scope.add_argument("--task", metavar="ID", help="only this task's registry")
    scope.add_argument(
        "--global", dest="only_global", action="store_true", help="only the global registry"
    )
    mode = repair.add_mutually_exclusive_group()
    mode.add_argument("--dry-run", action="store_true", help="only show differences; the default")
    mode.add_argument("--yes", action="store_true", help="write the corrections")


def _approve(approve: argparse.ArgumentParser) -> None:
    approve.add_argument("--yes", action="store_true", help="approve them; without it: show them")


def _mcp(mcp: argparse.ArgumentParser) -> None:
    program = mcp.add_mutually_exclusive_group()
    program.add_argument(
        "--agent-command",
        action="append",
        default=[],
        metavar="CMD",
        help="the agents' command line; or repeat the option, once for each argument",
    )
    program.add_argument("--agent-preset", metavar="NAME", help="or: claude, codex, gemini")
    mcp.add_argument("--http", action="store_true", help="serve HTTP on loopback, not stdio")
    mcp.add_argument("--port", type=int, metavar="N", help="default 8765; 0 is any free port")
    mcp.add_argument(
        "--token-file",
        metavar="F",
        help="the token, which stays; created if missing",
    )


COMMANDS: dict[str, tuple[str, Callable[[argparse.ArgumentParser], None] | None]] = {
    "sweep": ("find leftovers, and clean them up on request", _sweep),
    "health": ("report whether the resident sweeper runs and works", None),
    "service": ("print a service definition for the resident sweeper", _service),
    "stats": ("count cleanups and their results", _stats),
    "gc": ("remove or compress files whose retention time is over", _gc),
    "export": ("write a finished task into one tar file", _export),
    "doctor": ("check the root and the machine, and suggest remedies", None),
    "repair": ("correct registries from the journals", _repair),
    "approve": ("let a root's orchestrator.toml name commands and modules", _approve),
    "mcp": ("serve the tools to MCP clients", _mcp),
}
"""For each command, its help and the function that adds its arguments."""
