"""
The command line of the library.

Results go to stdout, as text or with ``--json`` as one JSON value; logs go to stderr. The exit
codes:

==== ================================================================
0    done
1    it failed, and nothing is left of it
2    usage: the arguments are invalid
3    something is left: a leak, or a saga that is STUCK
4    busy or unknown: a lock is held, or something could not be asked
==== ================================================================

An interrupt is 130, SIGTERM 143, and a closed pipe 141, as in other programs. An interrupted
deployment is undone first.

The exit code is about the command, not about its output: if stdout is closed or its disk is full,
the result goes to stderr. Only a command that does nothing but print, such as ``ps``, has failed
then.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from typing import TYPE_CHECKING, NoReturn

from orchestrator_core.cli.arguments import parser

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator_core.cli.printing import CommandResult
    from orchestrator_core.exceptions import OrchestratorError

OK, FAILED, USAGE, LEFT, BUSY = range(5)
INTERRUPTED, BROKEN_PIPE = 130, 141

_STDERR = 2  #: The highest of the standard descriptors.
#: The commands that change nothing: without their output, nothing is done.
_READING = frozenset({"doctor", "health", "ps", "service", "show", "stats"})


def run() -> NoReturn:
    """
    Run the program ``orchestrator-core``.

    It exits without the interpreter's cleanup, which would take a fifth of the time of an
    agent's report. All files are durable by then.
    """
    _open_missing_descriptors()
    if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
        # Inherited from the program that started this one. The kernel would drop the exit
        # status of every child: of tmux, of git.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        code = main()
    except KeyboardInterrupt:  # It came before the command, or while its result was printed.
        code = INTERRUPTED
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            if stream is not None:
                stream.flush()
    os._exit(code)


def _open_missing_descriptors() -> None:
    """Open descriptors 0, 1 and 2 if they are closed: no file of the root may get their numbers."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
        pass
    os.close(fd)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command, and return its exit code. Invalid usage raises SystemExit."""
    arguments = parser().parse_args(argv)
    from orchestrator_core.cli import commands, printing  # noqa: PLC0415 - after --help
    from orchestrator_core.exceptions import OrchestratorError  # noqa: PLC0415 - as above

    if arguments.verbose:
        printing.log_to_stderr()
    try:
        result = commands.run(arguments)
    except OrchestratorError as error:
        _print_error(error, as_json=arguments.json)
        return exit_code(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    return _print(result, arguments.command, as_json=arguments.json)


def _print_error(error: OrchestratorError, *, as_json: bool) -> None:
    from orchestrator_core.cli import printing  # noqa: PLC0415 - as above

    try:
        printing.print_error(error, as_json=as_json)
    except OSError:  # Only JSON goes to stdout.
        printing.discard_stdout()
        printing.print_error(error, as_json=False)


def _print(result: CommandResult, command: str, *, as_json: bool) -> int:
    """Print a result, and return the exit code."""
    from orchestrator_core.cli import printing  # noqa: PLC0415 - as above

    try:
        printing.print_result(result, as_json=as_json)
    except BrokenPipeError:
        printing.discard_stdout()
        return BROKEN_PIPE
    except OSError as error:
        printing.discard_stdout()
        printing.print_undelivered(result, error)
        return result.code or (FAILED if command in _READING else OK)
    return result.code


def exit_code(error: BaseException) -> int:
    """Return the exit code of an error."""
    from orchestrator_core import exceptions  # noqa: PLC0415 - as above

    busy = (
        exceptions.SagaBusy,
        exceptions.LockTimeout,
        exceptions.CouldNotAsk,
        exceptions.TaskRunning,
        exceptions.WaitTimeout,
    )
    if getattr(error, "leaked", ()):
        return LEFT
    if isinstance(error, exceptions.InvalidInput):
        return USAGE
    return BUSY if isinstance(error, busy) else FAILED
