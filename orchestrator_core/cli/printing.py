"""How results, errors and logs leave the command line."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator_core.exceptions import OrchestratorError


class Result(NamedTuple):
    """What a command has come to."""

    data: Any  #: For ``--json``.
    text: str  #: For people.
    code: int = 0
    errors: tuple[OrchestratorError, ...] = ()  #: Of some things that were asked for, not all.


def show(result: Result, *, as_json: bool) -> None:
    """Print a result to stdout; what went wrong on the way, in words, to stderr."""
    if as_json:
        _print_json(result.data)
    elif result.text:
        _print(result.text)
    if not as_json:
        for error in result.errors:
            complain(error, as_json=False)


def complain(error: OrchestratorError, *, as_json: bool) -> None:
    """Print an error: to stderr in words, or to stdout as the JSON that was asked for."""
    if as_json:
        _print_json({"success": False, **error.to_dict()})
        return
    print(f"orchestrator-core: {printable(str(error))}", file=sys.stderr)
    for line in str(getattr(error, "output", "")).splitlines()[-5:]:
        print(f"  wrote: {printable(line)}", file=sys.stderr)
    for thing in error.leaked:
        print(f"  left: {printable(thing)}", file=sys.stderr)
    if error.hint:
        print(f"  hint: {printable(error.hint)}", file=sys.stderr)


def printable(text: str) -> str:
    """Return *text* without what would move a terminal's cursor, or worse: agents wrote it."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else " " for char in text)


def _print_json(value: object) -> None:
    _print(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def _print(text: str) -> None:
    # A terminal without our characters is no reason to fail when all is done.
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding))
    sys.stdout.flush()


def log_to_stderr(level: int | None = None) -> None:
    """Write the library's log, from INFO or *level*, to stderr: one event a line, its values."""
    import logging  # noqa: PLC0415 - for those who log only

    usual = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

    class WithValues(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            return super().format(record) + _values(vars(record), usual)

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(WithValues("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("orchestrator_core")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO if level is None else level)


def _values(record: Mapping[str, object], usual: set[str]) -> str:
    return "".join(f" {name}={value}" for name, value in record.items() if name not in usual)
