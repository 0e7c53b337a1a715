"""``mcp``: serve the tools to MCP clients over stdio or HTTP."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator_core.cli import printing
from orchestrator_core.cli.printing import CommandResult
from orchestrator_core.exceptions import InvalidInput
from orchestrator_core.orchestrator import Orchestrator

if TYPE_CHECKING:
    import argparse

_TOKEN_NAME = "mcp-token"  # noqa: S105 - the name of the file in the root that holds it
_PORT = 8765


def mcp(arguments: argparse.Namespace) -> CommandResult:
    """Serve; SIGTERM, Ctrl-C and a client that closes its end stop the server with success."""
    from orchestrator_core.deployment.own_agent import adopt_own_agent  # noqa: PLC0415 - for a server only
    from orchestrator_core.mcp import ProgressObserver  # noqa: PLC0415 - a clear error without the extra
    from orchestrator_core.mcp.agent_kind import kind_from  # noqa: PLC0415 - as above
    from orchestrator_core.mcp.http_server import serve_http  # noqa: PLC0415 - as above
    from orchestrator_core.mcp.server import serve_stdio  # noqa: PLC0415 - as above
    from orchestrator_core.mcp.token import read_or_create_token, replace_token  # noqa: PLC0415 - as above

    if not arguments.http and (arguments.port is not None or arguments.token_file):
        raise InvalidInput(
            "--port and --token-file need --http", hint="add --http, or leave them out"
        )
    _log(verbose=arguments.verbose)
    adopt_own_agent(arguments.root)
    orch = Orchestrator(arguments.root, observer=ProgressObserver())
    kind = kind_from(
        orch.settings.mcp,
        command=arguments.agent_command,
        preset=arguments.agent_preset,
    )
    if arguments.http:
        token_file = Path(arguments.token_file or orch.root / _TOKEN_NAME)
        get_token = read_or_create_token if arguments.token_file else replace_token
        serve_http(
            orch,
            kind,
            port=_PORT if arguments.port is None else arguments.port,
            token=get_token(token_file),
            on_listening=lambda url: _print_address(url, token_file),
        )
    else:
        serve_stdio(orch, kind)
    arguments.json = False  # Standard output belongs to the client.
    return CommandResult(None, "")


def _log(*, verbose: bool) -> None:
    """Log to stderr only: standard output belongs to the client."""
    logging.basicConfig(
        stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s"
    )
    if verbose:
        printing.log_to_stderr()
        logging.getLogger("orchestrator_core").propagate = False


def _print_address(url: str, token_file: Path) -> None:
    printing.print_to_stderr(f"orchestrator-core: listening on {url}; the token is in {token_file}")
    sys.stderr.flush()
