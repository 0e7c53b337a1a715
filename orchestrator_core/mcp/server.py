"""
The server of ``orchestrator-core mcp``: the tools, over stdio or over HTTP on loopback.

SIGTERM, Ctrl-C and a client that closes its end stop the server cleanly: a deployment in
progress is undone first. After any other death, the next opening of the root recovers.
"""

from __future__ import annotations

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
from orchestrator_core.mcp.stdio import redirect_stdio
from orchestrator_core.mcp.token import StaticTokenVerifier
from orchestrator_core.mcp.tools import register_tools

if TYPE_CHECKING:
    from collections.abc import Callable

    from anyio import AsyncFile
    from anyio.abc import TaskStatus

    from orchestrator_core.mcp.agent_kind import AgentKind
    from orchestrator_core.mcp.stdio import StdinLines, StdoutWriter
    from orchestrator_core.orchestrator import Orchestrator

NAME = "orchestrator-core"
HOST = "127.0.0.1"
PATH = "/mcp"
_MAX_PORT = 65535
_STOP_SIGNALS = signal.SIGTERM, signal.SIGINT
_SHUTDOWN_TIMEOUT_S = 5  #: For answers that the client has not read when the server stops.

_INSTRUCTIONS = """\
Headless agents in tmux: make a task with create_real_task, deploy agents for it with
deploy_headless_agent, check on them with get_real_task_status, and end them with
kill_real_agent. Inside an agent, report with update_agent_progress and
report_agent_finding; the status "completed" is the last thing to report.
"""


class _StdioServer(MCPServer[Any]):
    """A server that signals stop, also while its client neither writes nor reads."""

    async def run_stdio_async(self) -> None:
        """Serve one client on standard input and output, until it closes its end or a signal."""
        stdin, stdout = redirect_stdio()
        async with anyio.create_task_group() as tasks:
            await tasks.start(_stop_on_signal, stdin, stdout)
            # The SDK calls only those methods of a file that these two have.
            files = cast("AsyncFile[str]", stdin), cast("AsyncFile[str]", stdout)
            async with stdio_server(*files) as (reading, writing):
                server = self._lowlevel_server
                await server.run(reading, writing, server.create_initialization_options())
                stdout.set_write_deadline(_SHUTDOWN_TIMEOUT_S)
            tasks.cancel_scope.cancel()


async def _stop_on_signal(
    stdin: StdinLines, stdout: StdoutWriter, *, task_status: TaskStatus[None]
) -> None:
    """Treat SIGTERM and Ctrl-C like a client that closes its end."""
    with anyio.open_signal_receiver(*_STOP_SIGNALS) as signals:
        task_status.started()
        async for _ in signals:
            stdin.stop()
            stdout.set_write_deadline(_SHUTDOWN_TIMEOUT_S)


def build_server(orchestrator: Orchestrator, kind: AgentKind, **settings: Any) -> MCPServer[Any]:  # noqa: ANN401 - the SDK's
    """Return a server with all tools, and nothing else; *settings* are the SDK's."""
    server = _StdioServer(
        NAME, instructions=_INSTRUCTIONS, version=__version__, log_level="WARNING", **settings
    )
    register_tools(server, orchestrator, kind=kind)
    return server


def serve_stdio(orchestrator: Orchestrator, kind: AgentKind) -> None:
    """Serve one client on standard input and output, until it closes its end or a signal."""
    build_server(orchestrator, kind).run()


# --- HTTP ----------------------------------------------------------------------------------------


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
    free port. Requests that name another host, or that come from a web page of another
    origin, are refused, so that no browser on this machine gives access. Afterwards the two
    signals have no effect.

    Raises:
        InvalidInput: The port is not available.
    """
    import uvicorn  # noqa: PLC0415 - only HTTP needs it

    # No issuer is asked: the only token is in a file of the server's owner.
    auth = AuthSettings.model_validate(
        {"issuer_url": f"http://{HOST}", "resource_server_url": None}
    )
    server = build_server(orchestrator, kind, auth=auth, token_verifier=StaticTokenVerifier(token))
    config = uvicorn.Config(
        server.streamable_http_app(streamable_http_path=PATH, host=HOST),
        log_config=None,  # uvicorn's own configuration writes to standard output.
        access_log=False,
        lifespan="on",
        timeout_graceful_shutdown=_SHUTDOWN_TIMEOUT_S,
    )
    with _listening_socket(port) as listener:
        on_listening(f"http://{HOST}:{listener.getsockname()[1]}{PATH}")
        for number in _STOP_SIGNALS:  # uvicorn handles a signal, and raises it again afterwards.
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
