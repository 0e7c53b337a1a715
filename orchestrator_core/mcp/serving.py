"""
A server of our own: the tools, over stdio or over HTTP on loopback.

It ends cleanly when it is told to, and when its client goes away: what was being
deployed is undone first. However it is killed, the next opening recovers.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import select
import signal
import socket
import sys
from typing import TYPE_CHECKING, Any

from mcp.server.auth.settings import AuthSettings
from mcp.server.mcpserver import MCPServer

from orchestrator_core import __version__
from orchestrator_core.exceptions import InvalidInput
from orchestrator_core.mcp.token import OneToken
from orchestrator_core.mcp.tools import register_tools

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from _typeshed import WriteableBuffer

    from orchestrator_core.mcp.agents import AgentKind
    from orchestrator_core.orchestrator import Orchestrator

NAME = "orchestrator-core"
HOST = "127.0.0.1"
PATH = "/mcp"
_FAREWELL_S = 5  #: For answers that are under way, when the server is told to end.

_INSTRUCTIONS = """\
Headless agents in tmux: make a task with create_real_task, deploy agents for it with
deploy_headless_agent, look after them with get_real_task_status, and end them with
kill_real_agent. Inside an agent, report with update_agent_progress and
report_agent_finding; the status "completed" is the last thing to report.
"""


def server_of(orchestrator: Orchestrator, kind: AgentKind, **how: Any) -> MCPServer[Any]:  # noqa: ANN401 - the SDK's
    """Return a server with all tools, and nothing else."""
    server: MCPServer[Any] = MCPServer(
        NAME, instructions=_INSTRUCTIONS, version=__version__, log_level="WARNING", **how
    )
    register_tools(server, orchestrator, kind=kind)
    return server


# --- stdio ---------------------------------------------------------------------------------------


def serve_stdio(orchestrator: Orchestrator, kind: AgentKind) -> None:
    """Serve one client on standard input and output, until it goes away or we are told to end."""
    server = server_of(orchestrator, kind)
    with _input_that_ends() as end, _when_told(end):
        server.run()


@contextlib.contextmanager
def _input_that_ends() -> Iterator[Callable[[], None]]:
    """
    Put what can be ended in the place of standard input; yields what ends it.

    The SDK reads it in a thread, and nothing can make a thread give up reading but an
    end of file. So to be told to end is the same as a client that has gone away. As
    with the SDK's own, what we start meanwhile finds nothing at descriptor 0.
    """
    wire = os.dup(0)
    woken, wake = os.pipe()
    before = sys.stdin
    nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    os.dup2(nothing, 0)
    os.close(nothing)
    sys.stdin = io.TextIOWrapper(io.BufferedReader(_Wire(wire, woken)))

    def end() -> None:
        os.write(wake, b".")

    try:
        yield end
    finally:
        # Not closed: the SDK's thread may still be about to look at them.
        end()
        sys.stdin = before
        os.dup2(wire, 0)


class _Wire(io.RawIOBase):
    """What comes in at a descriptor, until another one can be read."""

    def __init__(self, fd: int, woken: int) -> None:
        self._fd, self._woken = fd, woken

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        if self._woken not in select.select([self._fd, self._woken], [], [])[0]:
            with contextlib.suppress(OSError):  # A terminal that has hung up, say.
                return os.readv(self._fd, [buffer])
        return 0


@contextlib.contextmanager
def _when_told(end: Callable[[], None]) -> Iterator[None]:
    """Let SIGTERM and Ctrl-C do nothing but *end* it."""
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, lambda *_: end()) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# --- HTTP ----------------------------------------------------------------------------------------


def serve_http(
    orchestrator: Orchestrator,
    kind: AgentKind,
    *,
    port: int,
    token: str,
    listening: Callable[[str], None],
) -> None:
    """
    Serve any number of clients who have the *token*, on loopback, until told to end.

    *listening* is called with the address when clients can connect. A *port* of 0 is any
    that is free. Requests that name another host, or come from a web page elsewhere, are
    refused: a browser on this machine must not be the way in.

    Raises:
        InvalidInput: The port cannot be had.
    """
    import uvicorn  # noqa: PLC0415 - for this alone

    # No issuer is ever asked: there is one token, and its owner has it from a file.
    auth = AuthSettings.model_validate(
        {"issuer_url": f"http://{HOST}", "resource_server_url": None}
    )
    server = server_of(orchestrator, kind, auth=auth, token_verifier=OneToken(token))
    app = server.streamable_http_app(streamable_http_path=PATH, host=HOST)
    config = uvicorn.Config(
        app,
        log_config=None,  # Its own writes to standard output.
        access_log=False,
        lifespan="on",
        timeout_graceful_shutdown=_FAREWELL_S,
    )
    with _listener(port) as listener:
        listening(f"http://{HOST}:{listener.getsockname()[1]}{PATH}")
        with _when_told(
            lambda: None
        ):  # uvicorn hears the signal, and passes it on when it is done.
            uvicorn.Server(config).run(sockets=[listener])


@contextlib.contextmanager
def _listener(port: int) -> Iterator[socket.socket]:
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as made:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            made.bind((HOST, port))
        except (OSError, OverflowError) as error:
            taken = getattr(error, "errno", None) == errno.EADDRINUSE
            raise InvalidInput(
                f"port {port} of {HOST} cannot be had: {error}",
                hint="another server has it; --port 0 takes any" if taken else "try --port 0",
            ) from error
        made.listen()
        yield made
