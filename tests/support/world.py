"""
What is really there: sessions, processes, cgroups, files, records and locks.

No line is shared with the library. An agent is wholly *held* or wholly *gone*;
everything in between is a sentence in :meth:`World.torn`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import select
import shutil
import subprocess
import threading
import time
from collections import Counter
from pathlib import Path

from support.needs import may_create_cgroups

HELD = frozenset(
    {"session", "process", "journal", "prompt", "log", "deploy log", "run", "record", "entry"}
)
_ENDED = {"completed", "failed", "error", "terminated"}
_TMUX = shutil.which("tmux") or "tmux"  # Before a test hides it.
_CGROUPS = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"))


class World:
    """All resources of one root's agents on this machine."""

    def __init__(self, place, root):
        self.place = str(place)
        self.root = Path(root)

    # --- sessions ------------------------------------------------------------------------

    @property
    def socket(self):
        return json.loads((self.root / "root.json").read_text())["tmux_socket"]

    @property
    def root_id(self):
        return json.loads((self.root / "root.json").read_text())["root_id"]

    def tmux(self, *command):
        """Ask the root's tmux server, without starting it."""
        return subprocess.run(
            [_TMUX, "-N", "-u", "-S", self.socket, *command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )

    def sessions(self):
        return sorted(self.tmux("list-sessions", "-F", "#{session_name}").stdout.split())

    def panes(self, agent_id):
        """Return the pids of the panes of an agent's session."""
        answer = self.tmux("list-panes", "-t", f"=agent_{agent_id}:", "-F", "#{pane_pid}")
        return [int(pid) for pid in answer.stdout.split()]

    def server(self):
        """Return the tmux server's pid; None if none runs."""
        answer = self.tmux("display-message", "-p", "#{pid}").stdout.strip()
        return int(answer) if answer else None

    # --- processes -----------------------------------------------------------------------

    def processes(self):
        """
        Return {pid: evidence} of all that lives and has to do with this root's agents.

        By environment, command line, working directory, standard streams or cgroup: the
        tests' agents all live below one directory that no other program uses.
        """
        found = {}
        for pid in map(
            int, filter(str.isdecimal, (entry.name for entry in Path("/proc").iterdir()))
        ):
            if pid != os.getpid():
                with contextlib.suppress(OSError):
                    if evidence := self._evidence(pid):
                        found[pid] = evidence
        return found

    def _evidence(self, pid):
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        comm, state = stat[stat.index("(") + 1 : stat.rindex(")")], stat[stat.rindex(")") + 2]
        if state in "ZX" or comm.startswith("tmux: server"):
            return ""
        facts = [Path(f"/proc/{pid}/{name}").read_bytes() for name in ("environ", "cmdline")]
        links = [f"/proc/{pid}/{name}" for name in ("cwd", "fd/0", "fd/1", "fd/2")]
        facts += [os.fsencode(_link(link)) for link in links]
        facts += [Path(f"/proc/{pid}/cgroup").read_bytes()]
        marks = (os.fsencode(self.place), f"oc_{self.root_id}_".encode())
        if any(mark in each for each in facts for mark in marks):
            return f"{comm} {facts[1].replace(bytes(1), b' ')[:150].decode(errors='replace')}"
        return ""

    def of_agent(self, agent_id):
        """Return the pids of the processes with an agent's cookie, or in its cgroup."""
        mark = f"oc_{self.root_id}_{agent_id}".encode()
        found = []
        for pid in self.processes():
            with contextlib.suppress(OSError):
                facts = [Path(f"/proc/{pid}/{name}").read_bytes() for name in ("environ", "cgroup")]
                if any(mark in each for each in facts):
                    found.append(pid)
        return found

    def cgroups(self):
        # os.walk passes over what vanishes meanwhile.
        tree = (
            name
            for base in _CGROUPS
            if _is_v2(base)
            for _, names, _ in os.walk(base)
            for name in names
        )
        return sorted({name for name in tree if name.startswith(f"oc_{self.root_id}_")})

    # --- files ---------------------------------------------------------------------------

    def files(self, pattern):
        return sorted(str(path.relative_to(self.root)) for path in self.root.glob(pattern))

    def snapshot(self):
        """Return all names below the root, with the content of those that are not lock files."""
        signed = re.compile(r"\.lock$|tmux\.sock$|/events$")
        return {
            str(path.relative_to(self.root)): None
            if signed.search(str(path)) or not path.is_file()
            else path.read_bytes()
            for path in sorted(self.root.rglob("*"))
        }

    def litter(self):
        """Return the files that no code uses any more."""
        known = re.compile(
            r"\.gitignore|root\.json(\.lock)?|orchestrator\.toml|mcp-token|tmux\.sock"
            r"|registry/sweeper\.(json|lock)"
            r"|registry/(GLOBAL_REGISTRY|STATS)\.json((\.(settle|queue))?\.lock)?"
            r"|(registry|TASK-[^/]+)/\.[A-Z_]+\.json\.next-[01]"
            r"|sagas/(closed/)?[A-Za-z0-9_-]+\.jsonl"
            r"|TASK-[0-9]+-[0-9]+-[0-9a-f]{8}/(AGENT_REGISTRY\.json((\.(settle|queue))?\.lock)?"
            r"|agent_prompt_[^/]+\.txt|(logs|progress|findings|archive|output)/[^/.][^/]*"
            r"|run/[^/]+/[a-z]+)"
        )
        names = (path for path in self.root.rglob("*") if not path.is_dir())
        relative = (str(path.relative_to(self.root)) for path in names)
        unfinished = [path.name for path in self.root.glob(".new-*")]
        return sorted([name for name in relative if not known.fullmatch(name)] + unfinished)

    def journal(self, agent_id):
        """Return the lines of an agent's journal, open or closed; a torn last one is dropped."""
        for name in (f"sagas/{agent_id}.jsonl", f"sagas/closed/{agent_id}.jsonl"):
            with contextlib.suppress(FileNotFoundError):
                *whole, _torn = (self.root / name).read_bytes().split(b"\n")
                return [json.loads(line) for line in whole]
        return []

    def records(self):
        """Return {agent id: record} from all tasks' registries."""
        documents = (json.loads(p.read_bytes()) for p in self.root.glob("TASK-*/AGENT_*.json"))
        return {record["id"]: record for document in documents for record in document["agents"]}

    def entries(self):
        """Return {agent id: entry} of the global registry."""
        return self.totals().get("agents", {})

    def totals(self):
        path = self.root / "registry/GLOBAL_REGISTRY.json"
        return json.loads(path.read_bytes()) if path.exists() else {}

    def locked(self):
        """Return the journals and lock files that a process has locked."""
        held = []
        for path in [*self.root.rglob("*.lock"), *self.root.glob("sagas/*.jsonl")]:
            fd = os.open(path, os.O_RDWR)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                held.append(str(path.relative_to(self.root)))
            finally:
                os.close(fd)
        return held

    # --- all or nothing --------------------------------------------------------------------

    def holdings(self):
        """Return {agent id: set of its resources}, for every agent with any trace."""
        found = {agent: set() for agent in (*self.records(), *self.entries())}

        def add(what, agents):
            for agent in agents:
                found.setdefault(agent, set()).add(what)

        add("session", (s.removeprefix("agent_") for s in self.sessions()))
        add("cgroup", (c.removeprefix(f"oc_{self.root_id}_") for c in self.cgroups()))
        add("prompt", self._named("TASK-*/agent_prompt_*.txt", "agent_prompt_", ".txt"))
        add("log", self._named("TASK-*/logs/*_stream.jsonl", "", "_stream.jsonl"))
        add("deploy log", self._named("TASK-*/logs/deploy_*.json", "deploy_", ".json"))
        add("progress", self._named("TASK-*/progress/*", "", "_progress.jsonl"))
        add("findings", self._named("TASK-*/findings/*", "", "_findings.jsonl"))
        add("run", self._named("TASK-*/run/*", "", ""))
        add("record", (a for a, r in self.records().items() if r["status"] not in _ENDED))
        add("entry", self.entries())
        for agent in self._named("sagas/*.jsonl", "", ".jsonl"):
            kinds = [line["kind"] for line in self.journal(agent)]
            living = "commit" in kinds and not {"unwind", "close"} & set(kinds)
            add("journal" if living else "open journal", [agent])
        add("process", self._agents_with_processes(found))
        return found

    def _named(self, pattern, before, after):
        return [
            path.name.removeprefix(before).removesuffix(after) for path in self.root.glob(pattern)
        ]

    def _agents_with_processes(self, known):
        prefix = f"oc_{self.root_id}_".encode()
        for pid in self.processes():
            with contextlib.suppress(OSError):
                facts = b"".join(
                    Path(f"/proc/{pid}/{name}").read_bytes()
                    for name in ("environ", "cgroup", "cmdline")
                )
                for mark in re.findall(prefix + rb"([A-Za-z0-9_-]+)", facts):
                    yield mark.decode()
                yield from (agent for agent in known if agent.encode() in facts)

    def torn(self, *, cgroups=None):
        """Return a sentence for every agent that is neither complete nor gone."""
        odd = []
        cgroups = may_create_cgroups() if cgroups is None else cgroups
        optional = {"cgroup", "progress", "findings"}
        for agent, holds in sorted(self.holdings().items()):
            if holds and (HELD - holds or holds - HELD - optional):
                odd.append(f"{agent} holds {sorted(holds)}, and lacks {sorted(HELD - holds)}")
            elif cgroups and holds and "cgroup" not in holds:
                odd.append(f"{agent} has no cgroup")
            odd += self._contradictions(agent, bool(holds))
        odd += self.outlived()
        counted = self.totals()
        if counted and counted["active_agents"] != len(self.entries()):
            odd.append(f"{counted['active_agents']} agents are counted active")
        ended = Counter(r["status"] for r in self.records().values() if r["status"] in _ENDED)
        if counted and counted["ended"] != ended:
            odd.append(f"{counted['ended']} are counted as ended, and the records contain {ended}")
        odd += [f"{name} is locked" for name in self.locked()]
        return odd

    def outlived(self):
        """Return a sentence for every agent that outlives its parent."""
        living = {a: r["parent"] for a, r in self.records().items() if r["status"] not in _ENDED}
        return [
            f"{agent} has outlived its parent {parent}"
            for agent, parent in living.items()
            if (self.journal(parent) or [{"kind": ""}])[-1]["kind"] == "close"
        ]

    def _contradictions(self, agent, is_held):
        """Return a sentence for every agent whose journal and record contradict each other."""
        kinds = [line["kind"] for line in self.journal(agent)]
        record = self.records().get(agent)
        if is_held:
            return
        if kinds and kinds[-1] != "close":
            yield f"{agent} is gone, and its journal ends with {kinds[-1]}"
        why = next((x["why"]["reason"] for x in self.journal(agent) if x["kind"] == "unwind"), None)
        if why == "terminal":
            if record is None or record["status"] not in _ENDED:
                yield f"{agent} lived and has ended, and its record is {record}"
            elif not record.get("auto_cleanup_result"):
                yield f"{agent} has ended, and its record does not contain the cleanup"
        elif record is not None:
            yield f"{agent} never started, and has a record: {record}"
        elif archived := self.files(f"TASK-*/archive/*{agent}*"):
            yield f"{agent} never came to be, and has an archive: {archived}"

    def leftovers(self):
        """Return all resources, for a world in which every agent has ended."""
        left = [
            f"{agent} holds {sorted(holds)}" for agent, holds in self.holdings().items() if holds
        ]
        left += [f"process {pid}: {what}" for pid, what in self.processes().items()]
        left += [f"session {name}" for name in self.sessions()]
        left += [f"cgroup {name}" for name in self.cgroups()]
        left += [f"litter {name}" for name in self.litter()]
        return left

    # --- waiting -------------------------------------------------------------------------------

    def until_alone(self, *, timeout_s=20.0):
        """Wait until no process is left; return the processes that are left at the end."""
        deadline = time.monotonic() + timeout_s
        while (left := self.processes()) and time.monotonic() < deadline:
            wait_for_deaths(left, timeout_s=deadline - time.monotonic(), all_of_them=False)
        return left

    def until_closed(self, *, timeout_s=20.0):
        """Return when no session is left: tmux closes one soon after its last process ended."""
        deadline, moment = time.monotonic() + timeout_s, threading.Event()
        while (left := self.sessions()) and time.monotonic() < deadline:
            moment.wait(0.02)
        return left

    def end_everything(self):
        """End every process that a failed test left, by its pid, and remove its cgroups."""
        deadline = time.monotonic() + 10
        while (left := self.processes()) and time.monotonic() < deadline:
            for pid in left:
                with contextlib.suppress(OSError):
                    os.kill(pid, 18)
                    os.kill(pid, 9)
            wait_for_deaths(left, timeout_s=5)
        if server := self.server():
            os.kill(server, 9)
            wait_for_deaths([server], timeout_s=5)
        for base in _CGROUPS:
            for path in base.glob(f"oc_{self.root_id}_*"):
                with contextlib.suppress(OSError):
                    path.rmdir()


def wait_for_deaths(pids, *, timeout_s, all_of_them=True):
    """Return when all of *pids* (or the first of them) have died, by their pidfds."""
    deadline = time.monotonic() + timeout_s
    handles = {}
    for pid in pids:
        with contextlib.suppress(OSError):
            handles[os.pidfd_open(pid)] = pid
    waiting = set(handles)
    while waiting:
        ready, _, _ = select.select(waiting, [], [], max(0.0, deadline - time.monotonic()))
        waiting -= set(ready)
        if not ready or not all_of_them:
            break
    for handle in handles:
        os.close(handle)


def _is_v2(base):
    return (base / "cgroup.controllers").exists()


def _link(path):
    try:
        return str(Path(path).readlink())
    except OSError:
        return ""
