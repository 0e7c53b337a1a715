"""
The server over HTTP, on loopback, for clients that have its token.

Requests that name another host, or that come from a web page of another origin, are refused,
so that no browser on this machine gives access. The number of connections and the time for
a request to arrive are bounded, so that no program on this machine can keep clients out.
"""

from __future__ import annotations

import contextlib
import errno
import hmac
import signal
import socket
from typing import TYPE_CHECKING, Any

import anyio
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.transport_security import TransportSecuritySettings

from orchestrator_core.exceptions import InvalidInput
from orchestrator_core.mcp.adapters.lowlevel_server import ABANDONED
from orchestrator_core.mcp.request_lines import Refused, readable
from orchestrator_core.mcp.server import SHUTDOWN_TIMEOUT_S, STOP_SIGNALS, build_server

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    from orchestrator_core.mcp.agent_kind import AgentKind
    from orchestrator_core.orchestrator import Orchestrator

    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]

HOST = "127.0.0.1"
PATH = "/mcp"
_MAX_PORT = 65535
_MAX_BODY = 4 << 20  #: Bytes. The SDK refuses a longer body.


def serve_http(
    orchestrator: Orchestrator,
    kind: AgentKind,
    *,
    port: int,
    token: str,
    on_listening: Callable[[str], None],
) -> None:
    """
    Serve clients that have the *token*, on loopback, until SIGTERM or Ctrl-C.

    *on_listening* is called with the address when clients can connect. *port* 0 means any
    free port. Afterwards the two signals have no effect.

    Raises:
        InvalidInput: The port is not available.
    """
    import uvicorn  # noqa: PLC0415 - only HTTP needs it

    from orchestrator_core.mcp.http_limits import LimitedProtocol  # noqa: PLC0415 - as above

    config = uvicorn.Config(
        HttpApp(build_server(orchestrator, kind), token),
        http=LimitedProtocol,
        ws="none",
        log_config=None,  # uvicorn's own configuration writes to standard output.
        access_log=False,
        lifespan="on",
        timeout_graceful_shutdown=SHUTDOWN_TIMEOUT_S,
    )
    with _listening_socket(port) as listener:
        on_listening(f"http://{HOST}:{listener.getsockname()[1]}{PATH}")
        for number in STOP_SIGNALS:  # uvicorn handles a signal, and raises it again afterwards.
            signal.signal(number, lambda *_: None)
        uvicorn.Server(config).run(sockets=[listener])


def _listening_socket(port: int) -> socket.socket:
    if not 0 <= port <= _MAX_PORT:
        raise InvalidInput(f"port {port} is not in the range 0 to {_MAX_PORT}", hint="try --port 0")
    try:
        return socket.create_server((HOST, port))
    except OSError as error:
        in_use = error.errno == errno.EADDRINUSE
        raise InvalidInput(
            f"port {port} of {HOST} is not available: {error}",
            hint="another server uses it; --port 0 takes any" if in_use else "try --port 0",
        ) from error


class HttpApp:
    """An ASGI application: the SDK's streamable HTTP, behind the token."""

    def __init__(self, server: Any, token: str) -> None:  # noqa: ANN401 - of two versions of the SDK
        self._token = token.encode()
        self._sessions = StreamableHTTPSessionManager(
            server,
            security_settings=TransportSecuritySettings(
                enable_dns_rebinding_protection=True,
                allowed_hosts=[f"{HOST}:*", "localhost:*"],
                allowed_origins=[f"http://{HOST}:*", "http://localhost:*"],
            ),
        )

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close"})
        elif not self._is_owner(scope):
            await _refuse(send, 401, b"this server needs the token in its token file\n")
        elif scope["path"].rstrip("/") != PATH:
            await _refuse(send, 404, b"the address is /mcp\n")
        else:
            await self._serve(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        async with self._sessions.run():
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})

    def _is_owner(self, scope: Message) -> bool:
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        kind, _, token = (given or [b""])[0].partition(b" ")
        return kind.lower() == b"bearer" and hmac.compare_digest(token.strip(), self._token)

    async def _serve(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass a request on; a tool call notices in its scope if the client goes away."""
        abandoned = scope[ABANDONED] = anyio.Event()
        is_answered = False
        read = _as_message(await _read_body(receive)) if scope["method"] == "POST" else []

        async def watched_receive() -> Message:
            message = read.pop(0) if read else await receive()
            if message["type"] == "http.disconnect" and not is_answered:
                abandoned.set()
            return message

        async def watched_send(message: Message) -> None:
            nonlocal is_answered
            await send(message)
            if message["type"] == "http.response.body" and not message.get("more_body"):
                is_answered = True

        await self._sessions.handle_request(scope, watched_receive, watched_send)


async def _read_body(receive: Receive) -> list[Message]:
    """Return what has been received when the body is complete, or longer than the SDK takes."""
    read, size = [await receive()], 0
    while read[-1].get("more_body") and size <= _MAX_BODY:
        size += len(read[-1].get("body", b""))
        read.append(await receive())
    return read


def _as_message(read: list[Message]) -> list[Message]:
    """Return a complete body as the SDK can read it; a body that it refuses, unchanged."""
    if read[-1]["type"] == "http.request" and not read[-1].get("more_body"):
        body = b"".join(each.get("body", b"") for each in read)
        with contextlib.suppress(Refused):
            line = readable(body.decode(errors="replace"))
            return [{"type": "http.request", "body": line.encode(), "more_body": False}]
    return read


async def _refuse(send: Send, status: int, text: bytes) -> None:
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(text)).encode())]
    if status == 401:  # noqa: PLR2004 - HTTP's number for it
        headers.append((b"www-authenticate", b"Bearer"))
    with contextlib.suppress(OSError):
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": text})
