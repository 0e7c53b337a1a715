"""What can be said on the command line."""

from __future__ import annotations

import argparse
import functools
import os
import sys
from typing import TYPE_CHECKING, Any

from orchestrator_core import __version__
from orchestrator_core.cli import operations_arguments

if TYPE_CHECKING:
    from collections.abc import Callable

    Fill = Callable[[argparse.ArgumentParser], None]


class Command(argparse.ArgumentParser):
    """
    One command's parser, to which *fill* adds the arguments once it is the one that was called.

    All arguments of all commands would take a report of an agent a tenth of its time.
    """

    def __init__(self, *, fill: Fill | None = None, **about: Any) -> None:  # noqa: ANN401 - argparse's
        super().__init__(allow_abbrev=False, formatter_class=_formatter, **about)
        self._fill = fill

    def filled(self) -> Command:
        """Return it with its arguments."""
        if self._fill is not None:
            self._fill(self)
            self._fill = None
        return self

    def parse_known_args(self, *given: Any, **named: Any) -> Any:  # noqa: ANN401 - argparse's
        """Parse, as argparse asks it to when the command is called."""
        return super(Command, self.filled()).parse_known_args(*given, **named)


def _formatter(prog: str) -> argparse.HelpFormatter:
    # Left to itself it asks shutil, for each argument that is added; and importing shutil, with
    # all the compressors it brings, takes longer than parsing a command.
    return argparse.HelpFormatter(prog, width=_columns() - 2)


@functools.cache
def _columns() -> int:
    """Return how wide help may be, as :func:`shutil.get_terminal_size` has it."""
    given = os.environ.get("COLUMNS", "")
    if given.isdecimal() and int(given) > 0:
        return int(given)
    try:
        return os.get_terminal_size(sys.__stdout__.fileno() if sys.__stdout__ else -1).columns or 80
    except (OSError, ValueError):  # It is closed, or no terminal.
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
    for name, (about, add) in {**_OWN, **operations_arguments.COMMANDS}.items():
        commands.add_parser(name, help=about, fill=_whole(add))
    # No help: it is not for people, but for the supervisor, which becomes it.
    commands.add_parser("unwind", fill=_whole(_unwind))
    return top


def _whole(add: Fill | None) -> Fill:
    """Return what adds a command's own arguments, and those that all of them take."""

    def fill(command: argparse.ArgumentParser) -> None:
        if add is not None:
            add(command)
        _common(command, again=True)

    return fill


def _common(to: argparse.ArgumentParser, *, again: bool = False) -> None:
    """Add what every command takes, before its name or after it."""
    unset = argparse.SUPPRESS if again else None
    to.add_argument(
        "--root", metavar="DIR", default=unset, help="where the state is; or $ORCHESTRATOR_ROOT"
    )
    default = argparse.SUPPRESS if again else False
    to.add_argument("--json", action="store_true", default=default, help="print JSON")
    to.add_argument("--verbose", action="store_true", default=default, help="log to stderr")


def _demo(demo: argparse.ArgumentParser) -> None:
    demo.add_argument("directory", nargs="?", help="what the agents are to read: a git repository")
    demo.add_argument("--keep", action="store_true", help="leave its workspace to look at")


def _deploy(deploy: argparse.ArgumentParser) -> None:
    deploy.usage = (
        "%(prog)s (--task ID | --new-task TEXT) --type T (--prompt TEXT | --prompt-file F) "
        "[options] (-- CMD… | --preset P [--model M] [-- ARG…])"
    )
    task = deploy.add_mutually_exclusive_group(required=True)
    task.add_argument("--task", metavar="ID", help="for this task")
    task.add_argument("--new-task", metavar="TEXT", help="for a new task of this description")
    deploy.add_argument("--type", required=True, help="what kind of agent; its id begins with it")
    prompt = deploy.add_mutually_exclusive_group(required=True)
    prompt.add_argument("--prompt", metavar="TEXT", help="what it is to do")
    prompt.add_argument("--prompt-file", metavar="F", help="a file that says it; - is stdin")
    deploy.add_argument(
        "--grace", type=float, default=0.0, metavar="S", help="an agent that dies sooner has failed"
    )
    deploy.add_argument("--key", help="never deploy twice under this key")
    deploy.add_argument("--cwd", metavar="DIR", help="where the agent runs")
    deploy.add_argument(
        "--parent",
        metavar="AGENT",
        help="the agent that it ends with; by default the one we are inside of; or: orchestrator",
    )
    deploy.add_argument("--deadline", type=float, metavar="S", help="end it after so long")
    deploy.add_argument(
        "--silent-after",
        type=float,
        metavar="S",
        help="tell of it when it says nothing for so long",
    )
    deploy.add_argument(
        "--env",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="set a variable for it; repeat",
    )
    deploy.add_argument(
        "--preset",
        choices=["claude", "codex", "gemini", "shell"],
        help="run one of these, headless; what follows -- are more arguments for it",
    )
    deploy.add_argument("--model", metavar="M", help="with --preset: its model")
    deploy.add_argument(
        "cmd",
        nargs="*",
        metavar="CMD",
        help="its argv, in which {prompt_file} {agent_id} {task_id} {workspace} are replaced",
    )


def _ps(ps: argparse.ArgumentParser) -> None:
    ps.add_argument("--all", action="store_true", help="ended ones as well")
    ps.add_argument("--task", metavar="ID", help="of one task")


def _show(show: argparse.ArgumentParser) -> None:
    show.add_argument("agent", nargs="?", help="its id; not needed inside an agent")
    show.add_argument("--tail", type=int, default=10, metavar="N", help="lines of its output")


def _kill(kill: argparse.ArgumentParser) -> None:
    kill.add_argument("agents", nargs="+", metavar="agent", help="their ids")
    kill.add_argument("--reason", default="killed from the command line")
    kill.add_argument("--delete-logs", action="store_true", help="do not archive their logs")
    kill.add_argument(
        "--no-cascade", action="store_true", help="let their children live on, as nobody's"
    )
    _timeout(kill)


def _progress(progress: argparse.ArgumentParser) -> None:
    progress.add_argument("agent", nargs="?", help="its id; not needed inside an agent")
    progress.add_argument("--status", required=True, help="running, working, …, completed, failed")
    progress.add_argument("--message", default="")
    progress.add_argument("--progress", type=int, metavar="PERCENT")
    _timeout(progress)


def _timeout(to: argparse.ArgumentParser) -> None:
    to.add_argument(
        "--timeout",
        type=float,
        default=30.0,
        metavar="S",
        help="wait so long for somebody else who ends the same agent",
    )


def _recover(recover: argparse.ArgumentParser) -> None:
    recover.add_argument("agent", nargs="?", help="only this one")
    recover.add_argument("--force", action="store_true", help="try what is stuck again, now")
    recover.add_argument("--abandon", metavar="STEP", help="give up a step of a stuck agent")
    recover.add_argument("--reason", help="why it is given up; kept in the journal")


def _unwind(unwind: argparse.ArgumentParser) -> None:
    unwind.add_argument("agent")


_OWN: dict[str, tuple[str, Fill | None]] = {
    "demo": ("see sagas live and end, on real agents", _demo),
    "deploy": ("deploy an agent", _deploy),
    "ps": ("list agents", _ps),
    "show": ("tell all about one agent: its record, saga and output", _show),
    "kill": ("end agents, and give back all they held", _kill),
    "progress": ("report an agent's progress, or its end", _progress),
    "recover": ("finish what dead orchestrators left", _recover),
}
