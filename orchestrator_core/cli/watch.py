"""``sweep --watch``: be the root's resident sweeper, until told to end."""

from __future__ import annotations

import logging
import os
import signal
from typing import TYPE_CHECKING

from orchestrator_core.cli import printing
from orchestrator_core.cli.printing import Result
from orchestrator_core.operations.daemon.notify import ServiceManager
from orchestrator_core.operations.sweeper import Sweeper
from orchestrator_core.orchestrator import Orchestrator

if TYPE_CHECKING:
    import argparse


def run(arguments: argparse.Namespace) -> Result:
    """Watch the root; SIGTERM and Ctrl-C end it within a second, and that is success."""
    if not arguments.verbose:
        printing.log_to_stderr(logging.WARNING)
    # Its first sweep recovers: a dead owner's leavings are not to keep us from starting.
    sweeper = Sweeper(
        Orchestrator(arguments.root, recover=False),
        interval_s=arguments.interval,
        silent_after_s=arguments.silent_after,
        manager=ServiceManager.from_environment(os.environ),
    )
    with sweeper.stop_on_signals(signal.SIGTERM, signal.SIGINT):
        sweeper.run()
    health = sweeper.health()
    return Result(health.to_dict(), "ended, as it was told")
