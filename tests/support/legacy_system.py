"""
A fake of the legacy system: workspaces as it left them, with its agents still running.

The fake writes as the legacy system did: JSON in place, local times without a zone, counters
that drift, and sessions on the user's default tmux server. ``TMUX_TMPDIR`` makes that a
private server here.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shlex
import shutil
import subprocess
import tempfile
from datetime import datetime
from pathlib import Path

from support.scene import Scene
from support.world import wait_for_deaths

_TMUX = shutil.which("tmux") or "tmux"

#: Prints a line at its start, and another on SIGTERM.
LIVES = (
    "trap 'echo last words; exit 0' TERM; echo started; "
    "while :; do sleep 1000 >/dev/null & wait; done"
)


class LegacySystem:
    """The legacy system, working below one project."""

    def __init__(self, project, tmux_tmpdir):
        self.project = Path(project)
        self.root = self.project / ".agent-workspace"
        self.root.mkdir(parents=True)
        self.tmux_tmpdir = Path(tmux_tmpdir)
        self.tmux_tmpdir.mkdir()
        (self.root / "registry").mkdir()
        self._write(
            self.global_file,
            {
                "created_at": _now(),
                "total_tasks": 0,
                "active_tasks": 0,
                "total_agents_spawned": 0,
                "active_agents": 0,
                "max_concurrent_agents": 20,
                "tasks": {},
                "agents": {},
            },
        )

    # --- its files -------------------------------------------------------------------------

    @property
    def global_file(self):
        return self.root / "registry" / "GLOBAL_REGISTRY.json"

    def registry_file(self, task):
        return self.root / task / "AGENT_REGISTRY.json"

    def globally(self):
        return json.loads(self.global_file.read_text())

    def registry(self, task):
        return json.loads(self.registry_file(task).read_text())

    def record(self, task, agent):
        return next(each for each in self.registry(task)["agents"] if each.get("id") == agent)

    def edit(self, task, change):
        """Change a task's registry in place, without a lock."""
        document = self.registry(task)
        change(document)
        self._write(self.registry_file(task), document)

    def edit_globally(self, change):
        document = self.globally()
        change(document)
        self._write(self.global_file, document)

    @staticmethod
    def _write(path, document):
        with path.open("w") as file:
            json.dump(document, file, indent=2)

    def bytes(self):
        """Return the content of all files that the legacy system wrote, by name."""
        named = ("AGENT_REGISTRY.json", "GLOBAL_REGISTRY.json", "agent_prompt_*", "*.jsonl")
        found = {path for name in (*named, "deploy_*.json") for path in self.root.rglob(name)}
        return {
            str(path.relative_to(self.root)): path.read_bytes()
            for path in sorted(found)
            if "sagas" not in path.parts
        }

    # --- tasks and agents --------------------------------------------------------------------

    def task(self, description="Find the slow query", **more):
        """Create a task; return its id."""
        task = f"TASK-{now():%Y%m%d-%H%M%S}-{secrets.token_hex(4)}"
        for name in ("logs", "progress", "findings", "archive", "output"):
            (self.root / task / name).mkdir(parents=True)
        document = {
            "task_id": task,
            "task_description": description,
            "created_at": _now(),
            "workspace": str(self.root / task),
            "workspace_base": str(self.root),
            "client_cwd": str(self.project),
            "status": "INITIALIZED",
            "priority": "P2",
            "agents": [],
            "agent_hierarchy": {"orchestrator": []},
            "max_agents": 45,
            "max_depth": 5,
            "max_concurrent": 20,
            "total_spawned": 0,
            "active_count": 0,
            "completed_count": 0,
            "orchestration_guidance": {"max_concurrent": 3, "notes": ["ein Hinweis: ä"]},
            "spiral_checks": {"enabled": True, "last_check": _now(), "violations": 0},
        } | more
        self._write(self.registry_file(task), document)

        def enter(everything):
            everything["total_tasks"] += 1
            everything["active_tasks"] += 1
            everything["tasks"][task] = {
                "description": description,
                "created_at": document["created_at"],
                "status": "INITIALIZED",
                "deliverables_count": 0,
            }

        self.edit_globally(enter)
        return task

    def agent(
        self, task, agent_type="investigator", *, runs=None, tracked=True, deaf=False, **fields
    ):
        """
        Record an agent, with its files. *runs* is its shell script, if it has a session.

        Without *tracked*, the record is like those of the first releases. A *deaf* agent
        and its ``tee`` ignore SIGHUP.
        """
        stamp = f"{now():%H%M%S}"
        agent = fields.pop("id", f"{agent_type}-{stamp}-{secrets.token_hex(3)}")
        place = self.root / task
        files = {
            "prompt_file": str(place / f"agent_prompt_{agent}.txt"),
            "log_file": str(place / "logs" / f"{agent}_stream.jsonl"),
            "progress_file": str(place / "progress" / f"{agent}_progress.jsonl"),
            "findings_file": str(place / "findings" / f"{agent}_findings.jsonl"),
            "deploy_log": str(place / "logs" / f"deploy_{agent}.json"),
        }
        prompt = f"You are {agent}. Find it.\n"
        Path(files["prompt_file"]).write_text(prompt)
        line = {"timestamp": _now(), "agent_id": agent, "status": "working"}
        Path(files["progress_file"]).write_text(
            json.dumps(line | {"message": "at it", "progress": 10}) + "\n"
        )
        Path(files["deploy_log"]).write_text(json.dumps({"prompt": prompt, "agent_id": agent}))
        record = {
            "id": agent,
            "type": agent_type,
            "tmux_session": f"agent_{agent}",
            "parent": "orchestrator",
            "depth": 1,
            "status": "running",
            "started_at": _now(),
            "progress": 0,
            "last_update": _now(),
            "prompt": prompt[:200],
            **({"tracked_files": files} if tracked else {}),
        } | fields
        if runs is not None:
            self.start(record["tmux_session"], runs, files["log_file"], deaf=deaf)
        self._enter(task, record)
        return agent

    def _enter(self, task, record):
        def enter(document):
            document["agents"].append(record)
            siblings = document["agent_hierarchy"].setdefault(record["parent"], [])
            siblings.append(record["id"])
            document["total_spawned"] += 1
            document["active_count"] += 1

        def enter_globally(everything):
            everything["total_agents_spawned"] += 1
            everything["active_agents"] += 1
            everything["agents"][record["id"]] = {
                "task_id": task,
                "type": record["type"],
                "parent": record["parent"],
                "started_at": record["started_at"],
                "tmux_session": record["tmux_session"],
            }

        self.edit(task, enter)
        self.edit_globally(enter_globally)

    def record_end(self, task, agent, status="completed", **more):
        """Record the end of an agent, and leave everything else as it is."""

        def end(document):
            record = next(each for each in document["agents"] if each["id"] == agent)
            record.update({"status": status, "completed_at": _now()} | more)
            document["active_count"] -= 2  # The legacy system often counted an end twice.
            document["completed_count"] += 2

        self.edit(task, end)

    # --- sessions ----------------------------------------------------------------------------

    def start(self, session, script, log, *, deaf=False):
        """Start a session as the legacy system did: a shell, a pipeline, ``tee``."""
        inner = f"cd {shlex.quote(str(self.project))}; sh -c {shlex.quote(script)}"
        pipeline = f"{inner} | tee {shlex.quote(str(log))}"
        self.tmux("new-session", "-d", "-s", session, "trap '' HUP; " * deaf + pipeline)

    def tmux(self, *command, check=True):
        """Run a command of the default server."""
        return subprocess.run(
            [_TMUX, "-f", "/dev/null", *command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=check,
            timeout=20,
            cwd=self.project,
            env=self._environment(),
        ).stdout.strip()

    def _environment(self):
        hidden = ("TMUX", "TMUX_PANE")
        clean = {name: value for name, value in os.environ.items() if name not in hidden}
        return clean | {"TMUX_TMPDIR": str(self.tmux_tmpdir)}

    def sessions(self):
        output = self.tmux("-N", "list-sessions", "-F", "#{session_name}", check=False)
        return sorted(output.split())

    def panes(self, session):
        output = self.tmux(
            "list-panes", "-s", "-t", f"={session}:", "-F", "#{pane_pid}", check=False
        )
        return [int(pid) for pid in output.split()]

    def server(self):
        """Return the server's pid; None if the server does not run."""
        output = self.tmux("-N", "display-message", "-p", "#{pid}", check=False)
        return int(output) if output else None


def now():
    """Return the local time without a zone."""
    return datetime.now().astimezone().replace(tzinfo=None)


def _now():
    """Return the time as the legacy system wrote it."""
    return now().isoformat()


# --- a scene ------------------------------------------------------------------------------------


class LegacyScene(Scene):
    """A scene whose root the legacy system has created."""

    def __init__(self, place):
        super().__init__(place)
        self.legacy = LegacySystem(place / "project", place / "tmux")
        self.root = self.legacy.root
        self.world.root = self.root

    def running(self, runs=LIVES, **fields):
        """Return an orchestrator, a task and a running legacy agent."""
        task = self.legacy.task()
        agent = self.legacy.agent(task, runs=runs, **fields)
        self.until_started(task, agent)
        return self.orchestrator(), task, agent

    def until_started(self, task, agent):
        """Wait until an agent has printed its first line."""
        self.follow(self.root / task / "logs" / f"{agent}_stream.jsonl", until=b"started")

    def archived(self, task, agent):
        """Return the archived output of an ended agent."""
        return (self.root / task / "archive" / f"{agent}_stream.jsonl").read_text()

    def living(self):
        """Return the live processes of this scene, without tmux servers."""
        return self.world.processes()


@contextlib.contextmanager
def a_legacy_scene():
    """Make a scene; end whatever is left on it, each process by its pid."""
    made = LegacyScene(Path(tempfile.mkdtemp(prefix="oc-", dir="/tmp")))
    try:
        yield made
    finally:
        made.orchestrator()  # The cleanup needs the root's id.
        server = made.legacy.server()
        made.world.end_everything()
        if server is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(server, 9)
            wait_for_deaths([server], timeout_s=10)
        shutil.rmtree(made.place, ignore_errors=True)
