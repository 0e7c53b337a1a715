"""
The command line: the same library, by hand.

Results go to stdout, in words or with ``--json`` as one JSON value; logs go to
stderr. The exit code says what is left:

==== ==========================================================
0    done
1    it failed, and nothing is left of it
2    usage: the arguments make no sense
3    something is left: a leak, or a saga that is STUCK
4    busy: somebody else holds what we need, or did not answer
==== ==========================================================

An interrupt is 130, SIGTERM 143, a reader that went away 141, as everywhere. A
deployment that is interrupted is undone first.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, NoReturn

from orchestrator_core.cli.arguments import parser

if TYPE_CHECKING:
    from collections.abc import Sequence

OK, FAILED, USAGE, LEFT, BUSY = range(5)
INTERRUPTED, BROKEN_PIPE, TERMINATED = 130, 141, 143


def run() -> NoReturn:
    """
    Be the program ``orchestrator-core``.

    It leaves without the interpreter's farewells: all that matters is durable by
    then, and they would cost every report of an agent a fifth more.
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
    """Run one command, and return its exit code. Bad usage raises SystemExit."""
    arguments = parser().parse_args(argv)
    from orchestrator_core.cli import commands, printing  # noqa: PLC0415 - after --help
    from orchestrator_core.exceptions import OrchestratorError  # noqa: PLC0415

    if arguments.verbose:
        printing.log_to_stderr()
    try:
        result = commands.run(arguments)
        printing.show(result, as_json=arguments.json)
    except OrchestratorError as error:
        printing.complain(error, as_json=arguments.json)
        return code_of(error)
    except BrokenPipeError:
        # Who read us has gone; what is still buffered has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except KeyboardInterrupt:
        return INTERRUPTED
    return result.code


def code_of(error: BaseException) -> int:
    """Return the exit code that says what an error has left behind."""
    from orchestrator_core import exceptions  # noqa: PLC0415 - as above

    if getattr(error, "leaked", ()):
        return LEFT
    if isinstance(error, exceptions.InvalidInput):
        return USAGE
    busy = (
        exceptions.SagaBusy,
        exceptions.LockTimeout,
        exceptions.CouldNotAsk,
        exceptions.TaskRunning,
    )
    if isinstance(error, (*busy, exceptions.WaitTimeout)):
        return BUSY
    return FAILED
