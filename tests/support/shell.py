"""The command line as a person or a script runs it: real processes, on real tmux."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

TOP = Path(__file__).parents[2]
SLEEP = ("--", "sleep", "1000")


class Shell:
    """A command line with only the root in its environment."""

    def __init__(self, scene):
        self.scene = scene
        self.env = {
            name: value for name, value in os.environ.items() if not name.startswith("ORCHESTRATOR")
        }
        self.env |= {"ORCHESTRATOR_ROOT": str(scene.root), "PYTHONPATH": str(TOP)}

    def start(self, *arguments, **options):
        return subprocess.Popen(
            [sys.executable, "-m", "orchestrator_core", *arguments],
            **{
                "env": self.env,
                "cwd": self.scene.work,
                "stdin": subprocess.DEVNULL,
                "stdout": subprocess.PIPE,
                "stderr": subprocess.PIPE,
                "text": True,
                **options,
            },
        )

    def __call__(self, *arguments, **options):
        with self.start(*arguments, **options) as process:
            stdout, stderr = process.communicate(timeout=60)
        return process.returncode, stdout, stderr

    def json(self, *arguments):
        code, stdout, stderr = self(*arguments, "--json")
        assert (0, "") == (code, stderr), stdout
        return json.loads(stdout)

    def deploy(self, *command, options=()):
        """Return the id of a new agent."""
        new = ("--new-task", "a task", "--type", "a", "--prompt", "do it")
        code, stdout, stderr = self("deploy", *new, *options, "--", *(command or SLEEP[1:]))
        assert (0, "") == (code, stderr)
        return stdout.strip()
