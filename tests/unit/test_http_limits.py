"""HTTP connections of the MCP server: a bounded number, and a bounded time for a request."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket

import pytest
import uvicorn

from orchestrator_core.mcp import http_limits
from orchestrator_core.mcp.http_limits import LimitedProtocol

LONG_S = 30


async def app(scope, receive, send):
    """Answer after the request's body has come; ``/slow`` only in part."""
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    length = [(b"content-length", b"2")]
    await send({"type": "http.response.start", "status": 200, "headers": length})
    if scope["path"] == "/slow":
        await send({"type": "http.response.body", "body": b"o", "more_body": True})
        await receive()
        return
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
def serve():
    """Run *talk* with a function that connects to a server."""

    def run(talk):
        writers = []

        async def both():
            with socket.create_server(("127.0.0.1", 0)) as listener:
                config = uvicorn.Config(
                    app, http=LimitedProtocol, ws="none", log_config=None, lifespan="off"
                )
                server = uvicorn.Server(config)
                serving = asyncio.create_task(server._serve([listener]))
                try:
                    connect = functools.partial(open_connection, listener.getsockname()[1])
                    await asyncio.wait_for(talk(connect), LONG_S)
                finally:
                    for writer in writers:
                        writer.close()
                        with contextlib.suppress(ConnectionError):
                            await writer.wait_closed()
                    server.should_exit = server.force_exit = True
                    await serving

        async def open_connection(port, data=b""):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writers.append(writer)
            writer.write(data)
            await writer.drain()
            return reader, writer

        asyncio.run(both())

    return run


async def ended(reader):
    """Return whether the server closes the connection."""
    with contextlib.suppress(ConnectionError):
        return b"" == await reader.read(1)
    return True


GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize(
    "half",
    [
        b"",
        b"GET / HTTP/1.1\r\nHost: x\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n123",
    ],
)
def test_a_request_that_does_not_arrive_ends_its_connection(serve, monkeypatch, half):
    """Nothing, half of its head, or half of its body."""
    monkeypatch.setattr(http_limits, "REQUEST_TIMEOUT_S", 0.1)

    async def talk(connect):
        reader, _ = await connect(half)
        assert await ended(reader)

    serve(talk)


def test_a_request_that_trickles_after_another_ends_its_connection(serve, monkeypatch):
    """A byte now and then is not a request."""
    monkeypatch.setattr(http_limits, "REQUEST_TIMEOUT_S", 0.2)

    async def talk(connect):
        reader, writer = await connect(GET)
        assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
        with contextlib.suppress(ConnectionError):
            for byte in GET[:-2] * 100:
                writer.write(bytes([byte]))
                await writer.drain()
                if reader.at_eof():
                    break
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(reader.read(1), 0.02)
            else:
                pytest.fail("the connection stays")

    serve(talk)


def test_a_call_that_takes_long_keeps_its_connection(serve, monkeypatch):
    """The bound is on the request, not on the answer."""
    monkeypatch.setattr(http_limits, "REQUEST_TIMEOUT_S", 0.3)

    async def talk(connect):
        reader, _ = await connect(GET.replace(b"/ ", b"/slow ", 1))
        await reader.readuntil(b"\r\n\r\no")
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.6)

    serve(talk)


def test_the_oldest_idle_connection_makes_room(serve, monkeypatch):
    """A connection with a request that is being answered stays."""
    monkeypatch.setattr(http_limits, "max_connections", lambda: 3)

    async def talk(connect):
        slow = await connect(GET.replace(b"/ ", b"/slow ", 1))
        await slow[0].readuntil(b"\r\n\r\no")
        idle = [await connect() for _ in range(4)]
        assert await ended(idle[0][0])
        reader, _ = await connect(GET)
        assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(slow[0].read(1), 0.05)

    serve(talk)
