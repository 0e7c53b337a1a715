"""What can be said on the command line."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from orchestrator_core import __version__
from orchestrator_core.cli import care_arguments

if TYPE_CHECKING:
    _Commands = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001 - unnamed there


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    top = argparse.ArgumentParser(
        prog="orchestrator-core",
        description="Deploy headless agents into tmux; end them with nothing left behind.",
        allow_abbrev=False,
        epilog="exit codes: 0 done, 1 failed but clean, 2 usage, 3 something is left, 4 busy",
    )
    top.add_argument("--version", action="version", version=f"orchestrator-core {__version__}")
    _common(top)
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    own = (_demo, _deploy, _ps, _show, _kill, _progress, _recover, _unwind)
    for add in (*own, *care_arguments.ALL):
        _common(add(commands), again=True)
    return top


def _common(to: argparse.ArgumentParser, *, again: bool = False) -> None:
    """Add what every command takes, before its name or after it."""
    unset = argparse.SUPPRESS if again else None
    to.add_argument(
        "--root", metavar="DIR", default=unset, help="where the state is; or $ORCHESTRATOR_ROOT"
    )
    default = argparse.SUPPRESS if again else False
    to.add_argument("--json", action="store_true", default=default, help="print JSON")
    to.add_argument("--verbose", action="store_true", default=default, help="log to stderr")


def _demo(commands: _Commands) -> argparse.ArgumentParser:
    demo = commands.add_parser(
        "demo", allow_abbrev=False, help="see sagas live and end, on real agents"
    )
    demo.add_argument("directory", nargs="?", help="what the agents are to read: a git repository")
    demo.add_argument("--keep", action="store_true", help="leave its workspace to look at")
    return demo


def _deploy(commands: _Commands) -> argparse.ArgumentParser:
    deploy = commands.add_parser(
        "deploy",
        allow_abbrev=False,
        help="deploy an agent",
        usage="%(prog)s (--task ID | --new-task TEXT) --type T (--prompt TEXT | --prompt-file F) "
        "[options] (-- CMD… | --preset P [--model M] [-- ARG…])",
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
    return deploy


def _ps(commands: _Commands) -> argparse.ArgumentParser:
    ps = commands.add_parser("ps", allow_abbrev=False, help="list agents")
    ps.add_argument("--all", action="store_true", help="ended ones as well")
    ps.add_argument("--task", metavar="ID", help="of one task")
    return ps


def _show(commands: _Commands) -> argparse.ArgumentParser:
    show = commands.add_parser(
        "show", allow_abbrev=False, help="tell all about one agent: its record, saga and output"
    )
    show.add_argument("agent", nargs="?", help="its id; not needed inside an agent")
    show.add_argument("--tail", type=int, default=10, metavar="N", help="lines of its output")
    return show


def _kill(commands: _Commands) -> argparse.ArgumentParser:
    kill = commands.add_parser(
        "kill", allow_abbrev=False, help="end agents, and give back all they held"
    )
    kill.add_argument("agents", nargs="+", metavar="agent", help="their ids")
    kill.add_argument("--reason", default="killed from the command line")
    kill.add_argument("--delete-logs", action="store_true", help="do not archive their logs")
    kill.add_argument(
        "--no-cascade", action="store_true", help="let their children live on, as nobody's"
    )
    _timeout(kill)
    return kill


def _progress(commands: _Commands) -> argparse.ArgumentParser:
    progress = commands.add_parser(
        "progress", allow_abbrev=False, help="report an agent's progress, or its end"
    )
    progress.add_argument("agent", nargs="?", help="its id; not needed inside an agent")
    progress.add_argument("--status", required=True, help="running, working, …, completed, failed")
    progress.add_argument("--message", default="")
    progress.add_argument("--progress", type=int, metavar="PERCENT")
    _timeout(progress)
    return progress


def _timeout(to: argparse.ArgumentParser) -> None:
    to.add_argument(
        "--timeout",
        type=float,
        default=30.0,
        metavar="S",
        help="wait so long for somebody else who ends the same agent",
    )


def _recover(commands: _Commands) -> argparse.ArgumentParser:
    recover = commands.add_parser(
        "recover", allow_abbrev=False, help="finish what dead orchestrators left"
    )
    recover.add_argument("agent", nargs="?", help="only this one")
    recover.add_argument("--force", action="store_true", help="try what is stuck again, now")
    recover.add_argument("--abandon", metavar="STEP", help="give up a step of a stuck agent")
    recover.add_argument("--reason", help="why it is given up; kept in the journal")
    return recover


def _unwind(commands: _Commands) -> argparse.ArgumentParser:
    # No help: it is not for people, but for the supervisor, which becomes it.
    unwind = commands.add_parser("unwind", allow_abbrev=False)
    unwind.add_argument("agent")
    return unwind
