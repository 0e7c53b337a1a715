"""``mcp``: serve the tools to MCP clients, over stdio or HTTP, until they or we have had enough."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator_core.cli import printing
from orchestrator_core.cli.printing import Result
from orchestrator_core.exceptions import InvalidInput
from orchestrator_core.model import settings
from orchestrator_core.orchestrator import Orchestrator

if TYPE_CHECKING:
    import argparse

TOKEN = "mcp-token"  # noqa: S105 - the name of the file in the root that holds it


def run(arguments: argparse.Namespace) -> Result:
    """Serve; SIGTERM, Ctrl-C and a client that goes away end it, and that is success."""
    from orchestrator_core.mcp import ProgressObserver  # noqa: PLC0415 - says what to install, if need be
    from orchestrator_core.mcp.agent_kind import kind_of  # noqa: PLC0415 - as above
    from orchestrator_core.mcp.server import serve_http, serve_stdio  # noqa: PLC0415 - as above
    from orchestrator_core.mcp.token import token_in  # noqa: PLC0415 - as above

    if not arguments.http and (arguments.port is not None or arguments.token_file):
        raise InvalidInput("a port or a token, and no --http", hint="add --http, or leave them out")
    _log(verbose=arguments.verbose)
    orch = Orchestrator(arguments.root, observer=ProgressObserver())
    kind = kind_of(
        settings.read(orch.root).mcp,
        command=arguments.agent_command,
        preset=arguments.agent_preset,
    )
    if arguments.http:
        token_file = Path(arguments.token_file or orch.root / TOKEN)
        token = token_in(token_file)
        port = _PORT if arguments.port is None else arguments.port
        serve_http(orch, kind, port=port, token=token, listening=lambda url: _say(url, token_file))
    else:
        serve_stdio(orch, kind)
    arguments.json = False  # Standard output was the client's.
    return Result(None, "")


_PORT = 8765


def _log(*, verbose: bool) -> None:
    """Log to stderr, whatever others would do: standard output is the client's."""
    logging.basicConfig(
        stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s"
    )
    if verbose:
        printing.log_to_stderr()
        logging.getLogger("orchestrator_core").propagate = False


def _say(url: str, token_file: Path) -> None:
    print(f"orchestrator-core: listening on {url}; the token is in {token_file}", file=sys.stderr)
    sys.stderr.flush()
