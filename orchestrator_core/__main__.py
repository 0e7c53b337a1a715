"""``python -m orchestrator_core``: the command line."""

from __future__ import annotations

import sys

from orchestrator_core.cli import main

sys.exit(main())
