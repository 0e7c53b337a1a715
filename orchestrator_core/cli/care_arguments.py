"""What can be said on the command line to look after a root: sweep, keep, examine, mend."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    _Commands = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001 - unnamed there


def _sweep(commands: _Commands) -> argparse.ArgumentParser:
    sweep = commands.add_parser(
        "sweep", allow_abbrev=False, help="find what is left behind, and end it if asked to"
    )
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
    return sweep


def _health(commands: _Commands) -> argparse.ArgumentParser:
    return commands.add_parser(
        "health", allow_abbrev=False, help="tell whether the resident sweeper is alive and well"
    )


def _service(commands: _Commands) -> argparse.ArgumentParser:
    service = commands.add_parser(
        "service", allow_abbrev=False, help="print what runs the resident sweeper as a service"
    )
    service.add_argument("action", choices=["print"], help="print it, and touch nothing")
    manager = service.add_mutually_exclusive_group()
    for name, what in (("systemd", "a user unit"), ("launchd", "a property list")):
        manager.add_argument(
            f"--{name}", dest="manager", action="store_const", const=name, help=what
        )
    return service


def _stats(commands: _Commands) -> argparse.ArgumentParser:
    stats = commands.add_parser("stats", allow_abbrev=False, help="count how cleaning up has gone")
    stats.add_argument(
        "--format", choices=["text", "json", "prometheus"], default="text", help="how to print it"
    )
    return stats


def _gc(commands: _Commands) -> argparse.ArgumentParser:
    gc = commands.add_parser(
        "gc", allow_abbrev=False, help="remove or compress what was kept for long enough"
    )
    gc.add_argument("--dry-run", action="store_true", help="only tell what would go")
    return gc


def _export(commands: _Commands) -> argparse.ArgumentParser:
    export = commands.add_parser(
        "export", allow_abbrev=False, help="write a finished task, whole, into one tar file"
    )
    export.add_argument("task", metavar="TASK", help="its id")
    export.add_argument("file", metavar="FILE", help="a new file; compressed if it ends in .gz")
    export.add_argument("--remove", action="store_true", help="then take the task away")
    return export


def _doctor(commands: _Commands) -> argparse.ArgumentParser:
    return commands.add_parser(
        "doctor", allow_abbrev=False, help="examine the root and the machine, and say what to do"
    )


def _repair(commands: _Commands) -> argparse.ArgumentParser:
    repair = commands.add_parser(
        "repair", allow_abbrev=False, help="put registries right by what the journals know"
    )
    which = repair.add_mutually_exclusive_group()
    which.add_argument("--task", metavar="ID", help="only this task's")
    which.add_argument("--global", dest="only_global", action="store_true", help="only the root's")
    how = repair.add_mutually_exclusive_group()
    how.add_argument(
        "--dry-run", action="store_true", help="only show the difference; this is the default"
    )
    how.add_argument("--yes", action="store_true", help="write it")
    return repair


def _mcp(commands: _Commands) -> argparse.ArgumentParser:
    mcp = commands.add_parser(
        "mcp", allow_abbrev=False, help="serve the tools that agents know to MCP clients"
    )
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
    return mcp


ALL: tuple[Callable[[_Commands], argparse.ArgumentParser], ...] = (
    _sweep,
    _health,
    _service,
    _stats,
    _gc,
    _export,
    _doctor,
    _repair,
    _mcp,
)
"""Each adds one command."""
