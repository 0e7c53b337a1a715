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
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from orchestrator_core.cli.arguments import parser

if TYPE_CHECKING:
    from collections.abc import Sequence

OK, FAILED, USAGE, LEFT, BUSY = range(5)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command, and return its exit code."""
    arguments = parser().parse_args(argv)
    if arguments.verbose:
        _log_to_stderr()
    from orchestrator_core.cli import commands, output  # noqa: PLC0415 - after --help
    from orchestrator_core.exceptions import OrchestratorError  # noqa: PLC0415

    try:
        result = commands.run(arguments)
        output.show(result, as_json=arguments.json)
    except OrchestratorError as error:
        output.complain(error, as_json=arguments.json)
        return code_of(error)
    except BrokenPipeError:
        sys.stderr.close()  # Who read us has gone; there is nobody to tell.
        return FAILED
    except KeyboardInterrupt:
        return 128 + 2
    return result.code


def code_of(error: BaseException) -> int:
    """Return the exit code that says what an error has left behind."""
    from orchestrator_core import exceptions  # noqa: PLC0415 - as above

    if getattr(error, "leaked", ()):
        return LEFT
    if isinstance(error, exceptions.InvalidInput):
        return USAGE
    busy = (exceptions.SagaBusy, exceptions.LockTimeout, exceptions.CouldNotAsk)
    if isinstance(error, (*busy, exceptions.WaitTimeout)):
        return BUSY
    return FAILED


def _log_to_stderr() -> None:
    import logging  # noqa: PLC0415 - for --verbose only

    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s"
    )
