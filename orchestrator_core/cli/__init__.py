"""
The command line of the library.

Results go to stdout, as text or with ``--json`` as one JSON value; logs go to stderr. The exit
codes:

==== ==========================================================
0    done
1    it failed, and nothing is left of it
2    usage: the arguments are invalid
3    something is left: a leak, or a saga that is STUCK
4    busy: another process holds a lock, or did not answer
==== ==========================================================

An interrupt is 130, SIGTERM 143, and a closed pipe 141, as in other programs. An interrupted
deployment is undone first.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, NoReturn

from orchestrator_core.cli.arguments import parser

if TYPE_CHECKING:
    from collections.abc import Sequence

OK, FAILED, USAGE, LEFT, BUSY = range(5)
INTERRUPTED, BROKEN_PIPE = 130, 141


def run() -> NoReturn:
    """
    Run the program ``orchestrator-core``.

    It exits without the interpreter's cleanup, which would take a fifth of the time of an
    agent's report. All files are durable by then.
    """
    code = main()
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            code = code or FAILED
    os._exit(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command, and return its exit code. Invalid usage raises SystemExit."""
    arguments = parser().parse_args(argv)
    from orchestrator_core.cli import commands, printing  # noqa: PLC0415 - after --help
    from orchestrator_core.exceptions import OrchestratorError  # noqa: PLC0415 - as above

    if arguments.verbose:
        printing.log_to_stderr()
    try:
        result = commands.run(arguments)
        printing.print_result(result, as_json=arguments.json)
    except OrchestratorError as error:
        printing.print_error(error, as_json=arguments.json)
        return exit_code(error)
    except BrokenPipeError:
        # The reader has gone, so the rest of the buffer has no destination.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except KeyboardInterrupt:
        return INTERRUPTED
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
