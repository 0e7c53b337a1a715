"""How results and errors leave the command line."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from orchestrator_core.cli.commands import Result
    from orchestrator_core.exceptions import OrchestratorError


def show(result: Result, *, as_json: bool) -> None:
    """Print a result to stdout."""
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(result.data), indent=2).decode())
    elif result.text:
        print(result.text)
    sys.stdout.flush()


def complain(error: OrchestratorError, *, as_json: bool) -> None:
    """Print an error: to stderr in words, or to stdout as the JSON that was asked for."""
    if as_json:
        value = {"success": False, **error.to_dict()}
        print(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())
        return
    print(f"orchestrator-core: {error}", file=sys.stderr)
    for thing in error.leaked:
        print(f"  left: {thing}", file=sys.stderr)
    if error.hint:
        print(f"  hint: {error.hint}", file=sys.stderr)
