"""Results, errors and logs of the command line: text for people, or JSON."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

if TYPE_CHECKING:
    from orchestrator_core.exceptions import OrchestratorError


class CommandResult(NamedTuple):
    """The result of a command."""

    data: Any  #: For ``--json``.
    text: str  #: For people.
    code: int = 0
    errors: tuple[OrchestratorError, ...] = ()  #: One for each item that failed, if not all did.
    notes: tuple[str, ...] = ()  #: What is unknown.


def print_result(result: CommandResult, *, as_json: bool) -> None:
    """Print a result to stdout, and its notes to stderr; without JSON, also its errors."""
    for note in result.notes:
        print(f"orchestrator-core: unknown: {printable(note)}", file=sys.stderr)
    if as_json:
        _print_json(result.data)
        return
    if result.text:
        _print(result.text)
    for error in result.errors:
        print_error(error, as_json=False)


def print_error(error: OrchestratorError, *, as_json: bool) -> None:
    """Print an error: to stderr as text, or to stdout as JSON."""
    if as_json:
        _print_json({"success": False, **error.to_dict()})
        return
    _print_to_stderr(f"orchestrator-core: {printable(str(error))}")
    for line in str(getattr(error, "output", "")).splitlines()[-5:]:
        _print_to_stderr(f"  wrote: {printable(line)}")
    for resource in error.leaked:
        _print_to_stderr(f"  left: {printable(resource)}")
    if error.hint:
        _print_to_stderr(f"  hint: {printable(error.hint)}")


def print_undelivered(result: CommandResult, error: OSError) -> None:
    """Print to stderr a result that stdout did not take because of *error*."""
    reason = error.strerror or str(error)
    _print_to_stderr(f"orchestrator-core: standard output cannot take the result: {reason}")
    for line in result.text.splitlines():
        _print_to_stderr(f"  {line}")


def discard_stdout() -> None:
    """Drop what is left in the buffer of stdout, and all that follows."""
    if sys.stdout is not None:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


def printable(text: str) -> str:
    """Return *text* with a space for each character that could control the terminal."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else " " for char in text)


def _print_json(value: object) -> None:
    _print(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def _print_to_stderr(line: str) -> None:
    """Print a line, unless stderr is closed or full: no command fails because of that."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError):
            print(line, file=sys.stderr)


def _print(text: str) -> None:
    if sys.stdout is None:
        raise OSError(errno.EBADF, "it is closed")
    # A terminal that lacks some characters must not fail a command that is done.
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding))
    sys.stdout.flush()


def log_to_stderr(level: int | None = None) -> None:
    """Write the library's log, from *level* or INFO, to stderr: one event a line, with values."""
    import logging  # noqa: PLC0415 - only for commands that log

    standard = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

    class WithValues(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            values = [f" {n}={value}" for n, value in vars(record).items() if n not in standard]
            return super().format(record) + "".join(values)

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(WithValues("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("orchestrator_core")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO if level is None else level)
