"""
The table of crash windows in ``docs/explanation.md``, row by row, on real tmux.

For each row, a real process is killed at the row's place. The journal's state then, and the
agent's outcome after a recovery, are compared with the table itself. ``tests/faults`` kills
at every system call.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from support.scene import a_scene

import orchestrator_core
from orchestrator_core import GracePeriods, Orchestrator
from orchestrator_core.saga import Unwind

pytestmark = pytest.mark.tmux

TOP = Path(orchestrator_core.__file__).parents[1]
PAGE = Path(__file__).parents[2] / "docs" / "explanation.md"

DIES_EARLY = ["sh", "-c", "exit 3"]

ACTOR = """
import json, os, signal, sys
from orchestrator_core import AgentSpec, Orchestrator
from orchestrator_core.deployment import deployer, documents
from orchestrator_core.system import tmux
from orchestrator_core.saga.store import JournalStore
from orchestrator_core.saga.journal import Journal

root, act, options, when, line = sys.argv[1:]
options = json.loads(options)

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def dying(original, is_here):
    def call(self, *args, **how):
        here = is_here(*args)
        if here and when == "before":
            die()
        result = original(self, *args, **how)
        if here and when == "after":
            die()
        return result
    return call

def writes(*entries, **_how):
    return line in {f"{e.kind} {e.data.get('step', '')}".strip() for e in entries}

Journal.append = dying(Journal.append, writes)
if line == "journal":
    JournalStore.create = dying(JournalStore.create, lambda *_: True)
if line == "in flight":
    def in_flight(argv, **how):
        if "new-session" in argv:
            import subprocess
            wait = ["sh", "-c", 'read go < "$0"; exec "$@" > "$0"', options["gate"], *argv]
            subprocess.Popen(wait, start_new_session=True, env=how["env"], cwd="/",
                             stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            die()
        return run(argv, **how)
    run, tmux.subprocess.run = tmux.subprocess.run, in_flight

orch = Orchestrator(root, recover=False)
if act == "deploy":
    if options.get("unwinder"):
        documents.unwinder_argv = lambda *_: options["unwinder"]
    if options.get("dies after the commit"):
        deployer.Deployer._wait_until_started = lambda *_args, **_how: die()
    spec = AgentSpec(type="a", prompt="do it", command=options["command"])
    orch.deploy(options["task"], spec, grace_s=options.get("grace_s", 0.0))
elif act == "terminate":
    orch.terminate(options["agent"], reason="asked to")
elif act == "recover":
    orch.recover()
"""


class Play:
    """A world in which one row happens."""

    def __init__(self, scene):
        self.scene = scene
        self.root, self.world = scene.root, scene.world
        self.orch = self.opened()
        self.task = self.orch.create_task("Try a row").id

    def opened(self, **how):
        return Orchestrator(self.root, patience=GracePeriods(term_s=0.5), **how)

    def act(self, act, when="", line="", **options):
        """Let a process act, and kill it *when* (before or after) it writes *line*."""
        options = {"task": self.task, "command": ["sleep", "1000"], **options}
        done = subprocess.run(
            [sys.executable, "-c", ACTOR, self.root, act, json.dumps(options), when, line],
            env={**os.environ, "PYTHONPATH": str(TOP)},
            stderr=subprocess.PIPE,
            check=False,
        )
        expected = -signal.SIGKILL if when or "dies after the commit" in options else 0
        assert expected == done.returncode, done.stderr.decode()

    def deployed(self, **options):
        self.act("deploy", **options)
        return self.agent

    @property
    def agent(self):
        """The only agent; None if nothing of it is left."""
        names = [path.stem for path in self.root.glob("sagas/**/*-*.jsonl")]
        return names[0] if names else None

    def state(self):
        """Return the state of the journal, in the words of the table."""
        return "nothing" if self.agent is None else self.orch.history(self.agent).state.name

    def outcome(self):
        """Return the outcome for the agent, from sessions, processes and files."""
        assert [] == self.world.torn()
        record = self.world.records().get(self.agent)
        if record is None:
            assert [] == self.world.leftovers()
            return "nothing"
        if record["status"] == "running":
            assert [self.agent] == list(self.world.entries())
            return "alive"
        assert [] == self.world.leftovers()
        return record["status"]

    def pane(self):
        return int(self.world.tmux("list-panes", "-a", "-F", "#{pane_pid}").stdout)

    def kill(self, pid):
        os.kill(pid, signal.SIGKILL)
        wait_for_death(pid)

    def main_process(self):
        [run] = self.root.glob("TASK-*/run/*/started")
        return json.loads(run.read_text())["pid"]


def wait_for_death(pid):
    """Return when a process is dead."""
    if not hasattr(os, "pidfd_open"):
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(pid).wait(20)
        return
    with contextlib.suppress(ProcessLookupError):
        handle = os.pidfd_open(pid)
        assert select.select([handle], [], [], 20)[0], f"{pid} did not end"
        os.close(handle)


def deploying(when, line):
    return lambda play: play.act("deploy", when, line)


def ending(when, line):
    def happen(play):
        play.act("terminate", when, line, agent=play.deployed())

    return happen


def recovering(when, line):
    def happen(play):
        play.act("deploy", "before", "commit")
        play.act("recover", when, line)

    return happen


def in_flight(play):
    gate = play.scene.place / "gate"
    os.mkfifo(gate)
    stay = ["start-server", ";", "set-option", "-s", "exit-empty", "off"]
    subprocess.run(["tmux", "-f", "/dev/null", "-S", play.world.socket, *stay], check=True)
    play.act("deploy", "before", "in flight", gate=str(gate))
    play.late = gate


def committed_and_gone(play):
    play.act("deploy", **{"dies after the commit": True})


def gone_in_its_grace(play):
    play.act("deploy", grace_s=30, command=DIES_EARLY, **{"dies after the commit": True})
    play.orch.wait(play.agent, timeout_s=30)


def agent_killed(play):
    agent = play.deployed()
    os.kill(play.main_process(), signal.SIGKILL)
    play.orch.wait(agent, timeout_s=30)


def server_killed(play):
    agent = play.deployed()
    play.kill(play.world.server())
    play.orch.wait(agent, timeout_s=30)


def supervisor_killed(play):
    play.deployed(command=["sh", "-c", "trap '' HUP TERM; setsid sleep 1000 & sleep 1000; wait"])
    play.kill(play.pane())


def unwinder_killed(play):
    # /bin/true stands for an unwinder that is killed before it has done anything.
    play.deployed(command=["sh", "-c", "exit 3"], unwinder=["/bin/true"])
    supervisor = play.orch.history(play.agent).frame("spawn_tmux").load().supervisor
    play.orch._context.processes.watch(supervisor, timeout_s=30)


def requester_killed(play):
    with play.orch._terminator.sagas.open(play.deployed()) as saga:
        saga.request_end(Unwind.terminal("all done", status="completed", by="report"))


ROWS = {
    "the journal is written": deploying("before", "journal"),
    "`write_prompt` is begun": deploying("after", "journal"),
    "`write_prompt` is recorded": deploying("before", "done write_prompt"),
    "`tee_log` is recorded": deploying("before", "done tee_log"),
    "`new-session` is answered": in_flight,
    "`spawn_tmux` is recorded": deploying("before", "done spawn_tmux"),
    "`register_task` is recorded": deploying("before", "done register_task"),
    "`register_global` is recorded": deploying("before", "done register_global"),
    "the commit is written": deploying("before", "commit"),
    "the lock is released": deploying("after", "commit"),
    "the agent's start is noticed": committed_and_gone,
    "an early death is noticed": gone_in_its_grace,
    "the agent": agent_killed,
    "the tmux server": server_killed,
    "the supervisor": supervisor_killed,
    "the supervisor, become the unwinder": unwinder_killed,
    "the process that requested the end from inside": requester_killed,
    "the reason is recorded": ending("before", "unwind"),
    "anything is undone": ending("after", "unwind"),
    "`register_global`'s undo is recorded": ending("before", "undone register_global"),
    "`register_task`'s undo is recorded": ending("before", "undone register_task"),
    "`spawn_tmux`'s undo is recorded": ending("before", "undone spawn_tmux"),
    "`tee_log`'s undo is recorded": ending("before", "undone tee_log"),
    "`write_prompt`'s undo is recorded": ending("before", "undone write_prompt"),
    "the close is written": ending("before", "close"),
    "the journal is moved": ending("after", "close"),
    "it has begun to unwind": recovering("before", "unwind"),
    "it has undone half": recovering("before", "undone tee_log"),
    "it has closed": recovering("before", "close"),
}


def table():
    """Return {row: (state of the journal, outcome)} of the page."""
    rows = re.findall(
        r"^\| (.+?) +\| (\w+) +\| .+ \| \*\*(\w+)\*\* +\|$", PAGE.read_text(), re.MULTILINE
    )
    return {row: (state, outcome) for row, state, outcome in rows}


def test_the_table_has_every_tested_row_and_no_other():
    assert list(ROWS) == list(table())


@pytest.mark.parametrize("row", ROWS)
def test_a_crash_comes_to_the_state_and_the_outcome_of_its_row(row):
    state, outcome = table()[row]
    with a_scene() as scene:
        play = Play(scene)

        ROWS[row](play)
        found = play.state()
        play.orch.recover()
        if hasattr(play, "late"):
            _let_the_late_session_come(play)
        if outcome not in ("nothing", "alive"):
            play.orch.wait(play.agent, timeout_s=30)

        assert (state, outcome) == (found, play.outcome())
        again = play.opened()
        assert {} == again.recovery.unwound


def _let_the_late_session_come(play):
    """Let a `new-session` that is in flight continue, and wait for the death of its pane."""
    play.late.write_text("go\n")
    pane = int(play.late.read_text().split(":")[2])  # The output of new-session.
    wait_for_death(pane)
