"""
A server of our own: the tools, over stdio or over HTTP on loopback.

It ends cleanly when it is told to, and when its client goes away: what was being
deployed is undone first. However it is killed, the next opening recovers.
"""

from __future__ import annotations

import contextlib
import errno
import signal
import socket
from typing import TYPE_CHECKING, Any, cast

import anyio
from mcp.server.auth.settings import AuthSettings
from mcp.server.mcpserver import MCPServer
from mcp.server.stdio import stdio_server

from orchestrator_core import __version__
from orchestrator_core.exceptions import InvalidInput
from orchestrator_core.mcp import stdio
from orchestrator_core.mcp.token import StaticTokenVerifier
from orchestrator_core.mcp.tools import register_tools

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from anyio import AsyncFile
    from anyio.abc import TaskStatus

    from orchestrator_core.mcp.agent_kind import AgentKind
    from orchestrator_core.orchestrator import Orchestrator

NAME = "orchestrator-core"
HOST = "127.0.0.1"
PATH = "/mcp"
_STOP_SIGNALS = signal.SIGTERM, signal.SIGINT
_FAREWELL_S = 5  #: For answers that are under way, when the server is told to end.

_INSTRUCTIONS = """\
Headless agents in tmux: make a task with create_real_task, deploy agents for it with
deploy_headless_agent, look after them with get_real_task_status, and end them with
kill_real_agent. Inside an agent, report with update_agent_progress and
report_agent_finding; the status "completed" is the last thing to report.
"""


class _Server(MCPServer[Any]):
    """One whose standard input and output are waited for without threads."""

    async def run_stdio_async(self) -> None:
        """Serve one client on standard input and output, until it goes away or we are told to."""
        with stdio.taken() as (incoming, outgoing):
            async with anyio.create_task_group() as tasks:
                await tasks.start(_ending_when_told, incoming, outgoing)
                # It uses of a file what these have.
                files = cast("AsyncFile[str]", incoming), cast("AsyncFile[str]", outgoing)
                async with stdio_server(*files) as (reading, writing):
                    ours = self._lowlevel_server
                    await ours.run(reading, writing, ours.create_initialization_options())
                    outgoing.hurry(_FAREWELL_S)
                tasks.cancel_scope.cancel()


async def _ending_when_told(
    incoming: stdio.Incoming, outgoing: stdio.Outgoing, *, task_status: TaskStatus[None]
) -> None:
    """Let SIGTERM and Ctrl-C be the same as a client that goes away."""
    with anyio.open_signal_receiver(*_STOP_SIGNALS) as told:
        task_status.started()
        async for _ in told:
            incoming.end()
            outgoing.hurry(_FAREWELL_S)


def server_of(orchestrator: Orchestrator, kind: AgentKind, **how: Any) -> MCPServer[Any]:  # noqa: ANN401 - the SDK's
    """Return a server with all tools, and nothing else."""
    server = _Server(
        NAME, instructions=_INSTRUCTIONS, version=__version__, log_level="WARNING", **how
    )
    register_tools(server, orchestrator, kind=kind)
    return server


def serve_stdio(orchestrator: Orchestrator, kind: AgentKind) -> None:
    """Serve one client on standard input and output, until it goes away or we are told to end."""
    server_of(orchestrator, kind).run()


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
    server = server_of(orchestrator, kind, auth=auth, token_verifier=StaticTokenVerifier(token))
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
        with _ignore_signals():  # uvicorn hears the signal, and passes it on when it is done.
            uvicorn.Server(config).run(sockets=[listener])


@contextlib.contextmanager
def _ignore_signals() -> Iterator[None]:
    """Let SIGTERM and Ctrl-C do nothing."""
    before = {number: signal.signal(number, lambda *_: None) for number in _STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
