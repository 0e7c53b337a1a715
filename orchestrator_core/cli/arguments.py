"""The arguments of the command line."""

from __future__ import annotations

import argparse
import functools
import os
import sys
from typing import TYPE_CHECKING, Any

from orchestrator_core import __version__
from orchestrator_core.cli import operations_arguments
from orchestrator_core.cli.operations_arguments import add_seconds

if TYPE_CHECKING:
    from collections.abc import Callable

    Fill = Callable[[argparse.ArgumentParser], None]


class Command(argparse.ArgumentParser):
    """
    The parser of one command; *fill* adds its arguments when the command is called.

    To add the arguments of all commands would take a tenth of the time of an agent's report.
    """

    def __init__(self, *, fill: Fill | None = None, **options: Any) -> None:  # noqa: ANN401 - argparse's
        super().__init__(allow_abbrev=False, formatter_class=_formatter, **options)
        self._fill = fill

    def ensure_arguments(self) -> Command:
        """Return the parser with its arguments."""
        if self._fill is not None:
            self._fill(self)
            self._fill = None
        return self

    def parse_known_args(self, *given: Any, **named: Any) -> Any:  # noqa: ANN401 - argparse's
        """Add the arguments, and parse; argparse calls this when the command is called."""
        return super(Command, self.ensure_arguments()).parse_known_args(*given, **named)


def _formatter(prog: str) -> argparse.HelpFormatter:
    # The default width comes from shutil, once for each argument. To import shutil, with all its
    # compressors, takes longer than to parse a command.
    return argparse.HelpFormatter(prog, width=_columns() - 2)


@functools.cache
def _columns() -> int:
    """Return the terminal's width, as :func:`shutil.get_terminal_size` does."""
    given = os.environ.get("COLUMNS", "")
    if given.isdecimal() and int(given) > 0:
        return int(given)
    try:
        return os.get_terminal_size(sys.__stdout__.fileno() if sys.__stdout__ else -1).columns or 80
    except (OSError, ValueError):  # Closed, or not a terminal.
        return 80


def parser() -> Command:
    """Return the parser of all commands."""
    top = Command(
        prog="orchestrator-core",
        description="Deploy headless agents into tmux; end them with nothing left behind.",
        epilog="exit codes: 0 done, 1 failed but clean, 2 usage, 3 something is left, 4 busy",
    )
    top.add_argument("--version", action="version", version=f"orchestrator-core {__version__}")
    _common(top)
    commands = top.add_subparsers(
        dest="command", metavar="COMMAND", required=True, parser_class=Command, prog=top.prog
    )
    for name, (text, add) in {**_OWN, **operations_arguments.COMMANDS}.items():
        commands.add_parser(name, help=text, fill=functools.partial(_fill, add))
    # Without help: only a supervisor runs it, by exec.
    commands.add_parser("unwind", fill=functools.partial(_fill, _unwind))
    return top


def _fill(add: Fill | None, command: argparse.ArgumentParser) -> None:
    """Add a command's own arguments with *add*, and the common ones."""
    if add is not None:
        add(command)
    _common(command, again=True)


def _common(to: argparse.ArgumentParser, *, again: bool = False) -> None:
    """Add the arguments of every command, which may stand before its name or after it."""
    unset = argparse.SUPPRESS if again else None
    to.add_argument(
        "--root", metavar="DIR", default=unset, help="the root directory; or $ORCHESTRATOR_ROOT"
    )
    default = argparse.SUPPRESS if again else False
    to.add_argument("--json", action="store_true", default=default, help="print JSON")
    to.add_argument("--verbose", action="store_true", default=default, help="log to stderr")


def _demo(demo: argparse.ArgumentParser) -> None:
    demo.add_argument("directory", nargs="?", help="the git repository that the agents read")
    demo.add_argument("--keep", action="store_true", help="keep its workspace")


def _deploy(deploy: argparse.ArgumentParser) -> None:
    deploy.usage = (
        "%(prog)s (--task ID | --new-task TEXT) --type T (--prompt TEXT | --prompt-file F) "
        "[options] (-- CMD… | --preset P [--model M] [-- ARG…])"
    )
    task = deploy.add_mutually_exclusive_group(required=True)
    task.add_argument("--task", metavar="ID", help="for this task")
    task.add_argument("--new-task", metavar="TEXT", help="for a new task with this description")
    deploy.add_argument("--type", required=True, help="the kind of agent; its id begins with it")
    prompt = deploy.add_mutually_exclusive_group(required=True)
    prompt.add_argument(
        "--prompt",
        metavar="TEXT",
        help="the agent's instructions; other users can see them in ps until it is deployed",
    )
    prompt.add_argument("--prompt-file", metavar="F", help="a file with the prompt; - is stdin")
    add_seconds(deploy, "--grace", "an agent that dies sooner is a failed deployment", 0.0)
    deploy.add_argument("--key", help="return the running agent of this key, if there is one")
    deploy.add_argument("--cwd", metavar="DIR", help="the agent's working directory")
    deploy.add_argument(
        "--parent",
        metavar="AGENT",
        help="the agent that it ends with; default: the agent that runs this; or: orchestrator",
    )
    add_seconds(deploy, "--deadline", "end it after this time")
    add_seconds(deploy, "--linger", "let it go on for this time after it has reported its end")
    add_seconds(deploy, "--silent-after", "report it after this time without a sign of life")
    deploy.add_argument(
        "--env",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="set a variable; may be repeated; other users can see it in ps meanwhile",
    )
    deploy.add_argument(
        "--env-file",
        action="append",
        default=[],
        metavar="F",
        help="a file with a variable on each line, as NAME=VALUE; - is stdin; may be repeated",
    )
    deploy.add_argument(
        "--preset",
        choices=["claude", "codex", "gemini", "shell"],
        help="run this tool, headless; arguments after -- are passed to it",
    )
    deploy.add_argument("--model", metavar="M", help="with --preset: the model")
    deploy.add_argument(
        "cmd",
        nargs="*",
        metavar="CMD",
        help="its argv, with {prompt_file}, {prompt}, {agent_id}, {task_id}, {workspace} replaced",
    )


def _ps(ps: argparse.ArgumentParser) -> None:
    ps.add_argument("--all", action="store_true", help="also ended agents")
    ps.add_argument("--task", metavar="ID", help="only agents of this task")


def _show(show: argparse.ArgumentParser) -> None:
    show.add_argument("agent", nargs="?", help="its id; not needed inside an agent")
    part = show.add_mutually_exclusive_group()
    part.add_argument("--tail", type=int, metavar="N", help="the last lines of its output (10)")
    part.add_argument(
        "--offset", type=int, metavar="BYTE", help="the page of its output from this byte on"
    )
    show.add_argument("--max-bytes", type=int, metavar="N", help="the most of its output (8388608)")


def _kill(kill: argparse.ArgumentParser) -> None:
    kill.add_argument("agents", nargs="+", metavar="agent", help="their ids")
    kill.add_argument("--reason", default="killed from the command line")
    kill.add_argument("--delete-logs", action="store_true", help="do not archive their logs")
    kill.add_argument(
        "--no-cascade", action="store_true", help="let their children live on, without a parent"
    )
    _timeout(kill)


def _progress(progress: argparse.ArgumentParser) -> None:
    progress.add_argument("agent", nargs="?", help="its id; not needed inside an agent")
    progress.add_argument("--status", required=True, help="running, working, …, completed, failed")
    progress.add_argument("--message", default="")
    progress.add_argument("--progress", type=int, metavar="PERCENT")
    _timeout(progress)


def _timeout(to: argparse.ArgumentParser) -> None:
    text = "the longest wait for another process that ends the same agent"
    add_seconds(to, "--timeout", text, 30.0)


def _recover(recover: argparse.ArgumentParser) -> None:
    recover.add_argument("agent", nargs="?", help="only this agent")
    recover.add_argument("--force", action="store_true", help="retry STUCK sagas now")
    recover.add_argument("--abandon", metavar="STEP", help="give up a step of a STUCK agent")
    recover.add_argument("--reason", help="why it is given up; recorded in the journal")


def _unwind(unwind: argparse.ArgumentParser) -> None:
    unwind.add_argument("agent")


_OWN: dict[str, tuple[str, Fill | None]] = {
    "demo": ("run six real agents, and show how their sagas live and end", _demo),
    "deploy": ("deploy an agent", _deploy),
    "ps": ("list agents", _ps),
    "show": ("show one agent: its record, saga and output", _show),
    "kill": ("end agents, and undo their deployments", _kill),
    "progress": ("report an agent's progress, or its end", _progress),
    "recover": ("finish the sagas of dead orchestrators", _recover),
}
