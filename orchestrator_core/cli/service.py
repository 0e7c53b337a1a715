"""``service print``: what a service manager is given to run the resident sweeper."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from orchestrator_core.cli.printing import Result
from orchestrator_core.model.layout import open_root
from orchestrator_core.operations.daemon.service import Service

if TYPE_CHECKING:
    import argparse


def run(arguments: argparse.Namespace) -> Result:
    """Print it, for this root and this interpreter."""
    opened = open_root(arguments.root)
    service = Service(root=opened.layout.root, root_id=opened.root_id)
    manager = arguments.manager or ("launchd" if sys.platform == "darwin" else "systemd")
    text = service.launchd() if manager == "launchd" else service.systemd()
    data = {"manager": manager, "name": service.name, "argv": service.argv, "text": text}
    return Result(data, text.rstrip("\n"))
