"""
The lines of a client that the SDK can read. Every other line is answered here.

The SDK drops a line that it cannot parse, without an answer, and the client waits for ever.
JSON may hold half of a surrogate pair, as a string that was cut in the middle of an emoji
does; the SDK's parser cannot. Such a half becomes U+FFFD.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec
from mcp import types

from orchestrator_core.system.surrogates import replace_surrogates

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from orchestrator_core.mcp.stdio import StdinLines, StdoutWriter

PARSE_ERROR, INVALID_REQUEST = -32700, -32600  #: JSON-RPC's codes.


class Refused(Exception):
    """A line that is no message: ``answer`` goes to the client."""

    def __init__(self, code: int, message: str, request_id: Any = None) -> None:  # noqa: ANN401 - JSON
        super().__init__(message)
        error = {"code": code, "message": message}
        self.answer = {"jsonrpc": "2.0", "id": request_id, "error": error}


class RequestLines:
    """The lines of *stdin* that are messages; the answers to the others go to *stdout*."""

    def __init__(self, stdin: StdinLines, stdout: StdoutWriter) -> None:
        self._stdin = stdin
        self._stdout = stdout

    async def __aiter__(self) -> AsyncIterator[str]:
        """Yield each message, as the SDK can read it."""
        async for line in self._stdin:
            if not line.strip():
                continue
            try:
                yield readable(line)
            except Refused as refused:
                await self._stdout.write(json.dumps(refused.answer) + "\n")


def readable(line: str) -> str:
    """
    Return a message as the SDK can read it.

    Raises:
        Refused: The line is no JSON, or no message of the protocol.
    """
    try:
        message = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        message = _decode_leniently(line)
        line = json.dumps(message)
    _check(message)
    try:
        _sdk_check(line)
    except ValueError:
        if "method" in message:
            why = "the message is not one of JSON-RPC 2.0"
            raise Refused(INVALID_REQUEST, why, _id_of(message)) from None
    return line


def _decode_leniently(line: str) -> Any:  # noqa: ANN401 - JSON
    try:
        return replace_surrogates(json.loads(line, parse_constant=_no_constant))
    except (ValueError, RecursionError) as error:
        raise Refused(PARSE_ERROR, f"the line is not JSON: {error}") from None


def _no_constant(name: str) -> NoReturn:
    message = f"JSON has no {name}"
    raise ValueError(message)


def _check(message: Any) -> None:  # noqa: ANN401 - JSON
    if isinstance(message, list):
        raise Refused(INVALID_REQUEST, "batches are not supported: send one message a line")
    if not isinstance(message, dict):
        raise Refused(INVALID_REQUEST, "a message is a JSON object")
    if "method" not in message and not {"result", "error"} & message.keys():
        raise Refused(INVALID_REQUEST, "the message has no method", _id_of(message))
    if "method" in message and "id" in message and _id_of(message) is None:
        raise Refused(INVALID_REQUEST, "the id of a request is a string or an integer")


def _id_of(message: dict[str, Any]) -> Any:  # noqa: ANN401 - JSON
    """Return the id of a request; None if it is not valid."""
    given = message.get("id")
    return given if isinstance(given, str | int) and not isinstance(given, bool) else None


def _sdk_check(line: str) -> None:
    """Raise ValueError if the SDK's parser, of version 1 or 2, refuses the line."""
    adapter: Any = getattr(types, "jsonrpc_message_adapter", None)
    if adapter is None:
        adapter_v1: Any = types.JSONRPCMessage
        adapter_v1.model_validate_json(line)
    else:
        adapter.validate_json(line, by_name=False)
