"""
The server of ``orchestrator-core mcp``: the tools, over stdio or over HTTP on loopback.

SIGTERM, Ctrl-C and a client that closes its end stop the server cleanly: a deployment in
progress is undone first. After any other death, the next opening of the root recovers.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any, cast

import anyio
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server

from orchestrator_core import __version__
from orchestrator_core.mcp.request_lines import RequestLines
from orchestrator_core.mcp.stdio import redirect_stdio
from orchestrator_core.mcp.tools import register_tools

if TYPE_CHECKING:
    from anyio import AsyncFile
    from anyio.abc import TaskStatus

    from orchestrator_core.mcp.agent_kind import AgentKind
    from orchestrator_core.mcp.stdio import StdinLines, StdoutWriter
    from orchestrator_core.orchestrator import Orchestrator

NAME = "orchestrator-core"
STOP_SIGNALS = signal.SIGTERM, signal.SIGINT
SHUTDOWN_TIMEOUT_S = 5  #: For answers that the client has not read when the server stops.

_INSTRUCTIONS = """\
Headless agents in tmux: make a task with create_real_task, deploy agents for it with
deploy_headless_agent, check on them with get_real_task_status, and end them with
kill_real_agent. Inside an agent, report with update_agent_progress and
report_agent_finding; the status "completed" is the last thing to report.
"""


def build_server(orchestrator: Orchestrator, kind: AgentKind) -> Server[Any]:
    """Return a server with all tools, and nothing else."""
    server: Server[Any] = Server(NAME, version=__version__, instructions=_INSTRUCTIONS)
    register_tools(server, orchestrator, kind=kind)
    return server


def serve_stdio(orchestrator: Orchestrator, kind: AgentKind) -> None:
    """Serve one client on standard input and output, until it closes its end or a signal."""
    anyio.run(_serve_stdio, build_server(orchestrator, kind))


async def _serve_stdio(server: Server[Any]) -> None:
    stdin, stdout = redirect_stdio()
    async with anyio.create_task_group() as tasks:
        await tasks.start(_stop_on_signal, stdin, stdout)
        # The SDK calls only those methods of a file that these two have.
        lines = RequestLines(stdin, stdout)
        files = cast("AsyncFile[str]", lines), cast("AsyncFile[str]", stdout)
        async with stdio_server(*files) as (reading, writing):
            await server.run(reading, writing, server.create_initialization_options())
            stdout.set_write_deadline(SHUTDOWN_TIMEOUT_S)
        tasks.cancel_scope.cancel()


async def _stop_on_signal(
    stdin: StdinLines, stdout: StdoutWriter, *, task_status: TaskStatus[None]
) -> None:
    """Treat SIGTERM and Ctrl-C like a client that closes its end."""
    with anyio.open_signal_receiver(*STOP_SIGNALS) as signals:
        task_status.started()
        async for _ in signals:
            stdin.stop()
            stdout.set_write_deadline(SHUTDOWN_TIMEOUT_S)
