"""
Results, errors and logs of the command line: text for people, or JSON.

This is the only exit to a terminal. What records, file names and messages contain may come
from an agent or from a page that it has read, so no character of it controls the terminal:
neither a control character nor a mark that reverses the direction of the text.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable

    from orchestrator_core.exceptions import OrchestratorError

#: Candidates for characters that control a terminal: all but printable ASCII and line breaks.
_CONTROLLING = re.compile(r"[^\n\x20-\x7e]")


class CommandResult(NamedTuple):
    """The result of a command."""

    data: Any  #: For ``--json``.
    text: str  #: For people.
    code: int = 0
    errors: tuple[OrchestratorError, ...] = ()  #: One for each item that failed, if not all did.
    notes: tuple[str, ...] = ()  #: What is unknown.


class LiveResults:
    """The results of a command for several items: printed as they come, or with JSON at the end."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._rest: list[str] = []

    @property
    def rest(self) -> str:
        """What stdout has not taken."""
        return "\n".join(self._rest)

    def add(self, text: str) -> None:
        """Print one result, unless JSON is wanted."""
        if self._as_json:
            return
        if not self._rest:
            try:
                _print(text)
            except OSError:
                pass  # The end of the command reports it.
            else:
                return
        self._rest.append(text)

    def add_error(self, error: OrchestratorError) -> None:
        """Print the error of one item, unless JSON is wanted."""
        if not self._as_json:
            print_error(error, as_json=False)

    def interrupt(self, data: object, note: str) -> None:
        """Print what was done before an interrupt, and a note about the rest."""
        if self._as_json:
            with contextlib.suppress(OSError):
                _print_json(data)
        print_to_stderr(f"orchestrator-core: {note}")


def print_result(result: CommandResult, *, as_json: bool) -> None:
    """Print a result to stdout, and its notes to stderr; without JSON, also its errors."""
    for note in result.notes:
        print_to_stderr(f"orchestrator-core: unknown: {printable(note)}")
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
    print_to_stderr(f"orchestrator-core: {printable(str(error))}")
    for line in str(getattr(error, "output", "")).splitlines()[-5:]:
        print_to_stderr(f"  wrote: {printable(line)}")
    for resource in error.leaked:
        print_to_stderr(f"  left: {printable(resource)}")
    if error.hint:
        print_to_stderr(f"  hint: {printable(error.hint)}")


def print_undelivered(result: CommandResult, error: OSError) -> None:
    """Print to stderr a result that stdout did not take because of *error*."""
    reason = error.strerror or str(error)
    print_to_stderr(f"orchestrator-core: standard output cannot take the result: {reason}")
    for line in result.text.splitlines():
        print_to_stderr(f"  {line}")


def discard_stdout() -> None:
    """Drop what is left in the buffer of stdout, and all that follows."""
    if sys.stdout is not None:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


def terminal_width() -> int | None:
    """Return the number of columns of the output; None if it is no terminal and none is set."""
    given = os.environ.get("COLUMNS", "")
    if given.isdecimal() and int(given) > 0:
        return int(given)
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or None
    except (AttributeError, OSError, ValueError):
        return None


def printable(text: str) -> str:
    """Return *text* with a space for each character that could control the terminal."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else " " for char in text)


def as_text(lines: Iterable[str]) -> str:
    """Return lines as one text. A line break in a line becomes a space: no value adds a line."""
    return "\n".join(printable(line).rstrip() for line in lines)


def _harmless(text: str) -> str:
    """Return a text of several lines as :func:`printable` does each line; tabs stay."""
    return _CONTROLLING.sub(lambda found: " " if _controls(found[0]) else found[0], text)


def _controls(char: str) -> bool:
    # A surrogate is a byte of a name that is not UTF-8; it is printed with a backslash.
    return not (char.isprintable() or char == "\t" or "\ud800" <= char <= "\udfff")


def _print_json(value: object) -> None:
    text = msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
    # JSON leaves these as they are: DEL, and all but ASCII.
    _print(_CONTROLLING.sub(lambda found: _escaped(found[0]), text))


def _escaped(char: str) -> str:
    if char.isprintable() or char == "\n":
        return char
    units = char.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[i : i + 4]}" for i in range(0, len(units), 4))


def print_to_stderr(line: str) -> None:
    """Print a line, unless stderr is closed or full: no command fails because of that."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError):
            print(_harmless(line), file=sys.stderr)


def _print(text: str) -> None:
    if sys.stdout is None:
        raise OSError(errno.EBADF, "it is closed")
    # A terminal that lacks some characters must not fail a command that is done.
    encoding = sys.stdout.encoding or "utf-8"
    text = _harmless(text)
    print(text.encode(encoding, "backslashreplace").decode(encoding))
    sys.stdout.flush()


def log_to_stderr(level: int | None = None) -> None:
    """Write the library's log, from *level* or INFO, to stderr: one event a line, with values."""
    import logging  # noqa: PLC0415 - only for commands that log

    standard = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

    class WithValues(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            values = [f" {n}={value}" for n, value in vars(record).items() if n not in standard]
            return _harmless(super().format(record) + "".join(values))

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(WithValues("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("orchestrator_core")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO if level is None else level)
