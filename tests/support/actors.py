"""
Processes for the acts of a test; each can be killed during its act.

A small server has imported everything, and forks one process for each act. A real process
then costs a few milliseconds, and a killed process affects no other.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]


class Actors:
    """The client of the server of actors."""

    def __init__(self):
        import orchestrator_core  # noqa: PLC0415 - only to know where it is

        home = Path(orchestrator_core.__file__).resolve().parents[1]
        env = {**os.environ, "PYTHONPATH": f"{home}{os.pathsep}{HERE}"}
        for name in ("TMUX", "TMUX_PANE", "ORCHESTRATOR_ROOT"):
            env.pop(name, None)
        self._server = subprocess.Popen(
            [sys.executable, "-m", "support.actors"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd="/",
            env=env,
        )

    def do(self, act, *, kill_at=None, count=False, **args):
        """Run one act in a process; return {"result" or "error", "killed", "effects"}."""
        return self.do_all([self.job(act, kill_at=kill_at, count=count, **args)])[0]

    @staticmethod
    def job(act, *, kill_at=None, count=False, **args):
        """Return an act for :meth:`do_all`, to be killed at (number, "before" or "after")."""
        return {"act": act, "args": args, "kill_at": kill_at, "count": count}

    def do_all(self, jobs):
        """Run one process for each job, all at the same time; return their outcomes."""
        return self._ask({"do": jobs})

    def start(self, act, **args):
        """Start an act in a process; return its pid, for :meth:`collect`."""
        return self._ask({"start": self.job(act, **args)})

    def collect(self, pid):
        """Wait for a started process; return its outcome."""
        return self._ask({"collect": pid})

    def _ask(self, question):
        self._server.stdin.write(json.dumps(question).encode() + b"\n")
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline())

    def close(self):
        self._server.stdin.close()
        self._server.wait(20)
        self._server.stdout.close()


def serve():
    """Serve requests until the input ends."""
    import libtmux  # noqa: F401, PLC0415 - warmed for all actors
    import portalocker  # noqa: F401, PLC0415 - as above

    import orchestrator_core.orchestrator  # noqa: PLC0415 - as above
    import orchestrator_core.reconcile.rebuild  # noqa: PLC0415 - as above
    import orchestrator_core.system.tmux  # noqa: F401, PLC0415 - as above
    from orchestrator_core.system.processes import LocalProcesses  # noqa: F401, PLC0415 - as above
    from support import acts  # noqa: PLC0415 - the server's own, and slow

    started = {}
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        question = json.loads(line)
        if "do" in question:
            begin, go = os.pipe()
            children = [_fork(acts, job, begin, go) for job in question["do"]]
            os.close(begin)
            os.close(go)  # All at once.
            answer = [_collect(*child) for child in children]
        elif "start" in question:
            pid, output = _fork(acts, question["start"])
            started[pid] = output
            answer = pid
        else:
            answer = _collect(question["collect"], started.pop(question["collect"]))
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _fork(acts, job, begin=None, go=None):
    output = tempfile.TemporaryFile()  # noqa: SIM115 - closed when it has been read
    pid = os.fork()
    if pid:
        return pid, output
    status = 1
    try:
        os.setsid()
        if begin is not None:
            os.close(go)
            os.read(begin, 1)
        _act(acts, job, output)
        status = 0
    finally:
        if status:
            sys.excepthook(*sys.exc_info())
        os._exit(status)


def _act(acts, job, output):
    from orchestrator_core.testing.effects import Effects  # noqa: PLC0415 - see serve
    from support.effects import Killed  # noqa: PLC0415 - the same

    effects = Killed(*job["kill_at"]) if job["kill_at"] else Effects()
    with effects if job["kill_at"] or job["count"] else contextlib.nullcontext():
        outcome = acts.perform(job["act"], job["args"])
    output.write(json.dumps({**outcome, "effects": effects.names}).encode())
    output.flush()


def _collect(pid, output):
    _, status = os.waitpid(pid, 0)
    with output:
        output.seek(0)
        text = output.read()
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    outcome = json.loads(text) if text and not killed else {}
    return {**outcome, "killed": killed, "status": status}


if __name__ == "__main__":
    serve()
