"""
Agents that write below the root what they please: on real tmux.

An agent that may write below the root can end itself that way, and it can do no more. A
file, a directory or a process that is not the agent's survives, and the end is reported.
"""

import json
import os
import subprocess
import time
import zlib
from pathlib import Path

import pytest

from orchestrator_core.resources import EnvFile, ReservedPort, Subprocess, TempDirectory

pytestmark = pytest.mark.tmux


def sealed(**line):
    """Return one line of a journal, with a correct checksum."""
    body = json.dumps(line, separators=(",", ":")).encode()[:-1]
    return body + b',"crc":"%08x"}\n' % zlib.crc32(body)


class Tampering:
    """An agent, and a stranger's file, directory and process, which must survive."""

    def __init__(self, scene):
        self.scene = scene
        self.orch = scene.orchestrator()
        self.task = self.orch.create_task("tried").id
        self.agent = self.orch.deploy(self.task, scene.spec()).id
        self.journal = scene.root / "sagas" / f"{self.agent}.jsonl"
        self.folder = scene.root / self.task
        self.run = self.folder / "run" / self.agent
        self.log = self.folder / "logs" / f"{self.agent}_stream.jsonl"
        self.strange = scene.place / "strange"
        (self.strange / "deep").mkdir(parents=True)
        for name in ("key", "deep/thesis"):
            (self.strange / name).write_text("mine")
        self.stranger = subprocess.Popen(["sleep", "1000"], start_new_session=True)

    def close(self):
        self.stranger.kill()
        self.stranger.wait()
        for path in self.scene.root.rglob("*"):
            if path.is_dir() and not path.is_symlink():
                path.chmod(0o700)

    @property
    def identity(self):
        """The stranger's process, as a supervisor describes one."""
        stat = Path(f"/proc/{self.stranger.pid}/stat").read_text().rpartition(")")[2].split()
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return {"boot_id": boot_id, "pid": self.stranger.pid, "started": int(stat[19])}

    def append(self, **line):
        with self.journal.open("ab") as file:
            file.write(sealed(**line))

    def rewrite(self, step, **changes):
        """Change the receipts of a step in all lines, as if they had always been like this."""
        lines = [json.loads(line) for line in self.journal.read_bytes().splitlines()]
        for line in lines:
            del line["crc"]
            if line.get("step") == step and "receipt" in line:
                line["receipt"] |= changes
        self.journal.write_bytes(b"".join(sealed(**line) for line in lines))

    def plant(self, **intent):
        """Insert an intent before the agent's own, which is where an intent belongs."""
        begin, *rest = (json.loads(line) for line in self.journal.read_bytes().splitlines())
        begin["steps"].insert(0, intent["step"])
        lines = [begin, {"kind": "intent", "version": 1, **intent}, *rest]
        for line in lines:
            line.pop("crc", None)
        self.journal.write_bytes(b"".join(sealed(**line) for line in lines))

    def end(self):
        return self.scene.orchestrator(recover=True).terminate(self.agent)

    def assert_ended_alone(self, report):
        """The agent has ended, all of it, and nothing else."""
        assert report.success, report.errors
        assert "mine" == (self.strange / "key").read_text()
        assert "mine" == (self.strange / "deep" / "thesis").read_text()
        assert self.stranger.poll() is None
        assert [] == self.scene.world.sessions()
        assert [] == self.scene.world.of_agent(self.agent)
        assert not os.path.lexists(self.run)
        assert not os.path.lexists(self.log)
        assert not os.path.lexists(self.journal)


@pytest.fixture
def tampering(scene):
    made = Tampering(scene)
    yield made
    made.close()


# --- receipts ---------------------------------------------------------------------------------

LATE = {
    "another prompt": lambda it: it.append(
        kind="done", step="write_prompt", receipt={"path": str(it.strange / "key")}
    ),
    "another step": lambda it: it.append(
        kind="intent",
        step="tmp",
        type="temp_directory",
        version=1,
        receipt={"path": str(it.strange)},
    ),
    "an undo that never was": lambda it: it.append(
        kind="undone", step="spawn_tmux", outcome={"result": "undone", "detail": {"proven": True}}
    ),
}


@pytest.mark.parametrize("line", LATE)
def test_a_line_after_the_commit_is_not_believed_and_is_reported(line, tampering):
    """No release of the library writes an intent, or a receipt, after the commit."""
    LATE[line](tampering)

    report = tampering.end()

    tampering.assert_ended_alone(report)
    assert "not believed" in " ".join(report.kept)


FORGED = {
    "the prompt": lambda it: it.rewrite("write_prompt", path=str(it.strange / "key")),
    "the prompt above": lambda it: it.rewrite(
        "write_prompt", path=f"{it.folder}/x/../../../strange/key"
    ),
    "the log": lambda it: it.rewrite("tee_log", log=str(it.strange / "key")),
    "the run directory": lambda it: it.rewrite("tee_log", run=str(it.strange)),
    "the archive": lambda it: it.rewrite("tee_log", archive=str(it.strange)),
    "a directory": lambda it: it.plant(
        step="tmp", type="temp_directory", receipt={"path": str(it.strange)}
    ),
    "a directory above": lambda it: it.plant(
        step="tmp",
        type="temp_directory",
        receipt={"path": f"{it.scene.root}/held/{it.agent}/../../../strange"},
    ),
    "a secret": lambda it: it.plant(
        step="env_file", type="env_file", receipt={"path": str(it.strange / "key"), "names": []}
    ),
    "a port": lambda it: it.plant(
        step="port",
        type="reserved_port",
        receipt={"claims": str(it.strange), "holder": str(it.strange / "key"), "number": 1},
    ),
    "a worktree": lambda it: it.plant(
        step="tree",
        type="git_worktree",
        receipt={
            "repository": str(it.strange),
            "path": str(it.strange / "deep"),
            "branch": "main",
            "base": "HEAD",
            "shared": "agent/",
        },
    ),
    "a helper": lambda it: it.plant(
        step="sub",
        type="subprocess",
        receipt={
            "run": str(it.strange),
            "cookie": f"och_x_{it.agent}_strange",
            "term_s": 1,
            "kill_s": 1,
            "supervisor": it.identity,
        },
    ),
}


@pytest.mark.parametrize("receipt", FORGED)
def test_a_receipt_is_believed_only_as_far_as_the_agents_id_leads(receipt, tampering):
    """The whole journal is written anew, so that no line is out of place."""
    FORGED[receipt](tampering)

    report = tampering.end()

    tampering.assert_ended_alone(report)
    assert "strange" in " ".join(report.kept)


def test_a_directory_that_a_symlink_leads_to_is_left_alone(tampering):
    held = tampering.scene.root / "held"
    held.mkdir(mode=0o700, exist_ok=True)
    (held / tampering.agent).symlink_to(tampering.strange)
    path = f"{held}/{tampering.agent}/deep"
    tampering.plant(step="tmp", type="temp_directory", receipt={"path": path})

    report = tampering.end()

    tampering.assert_ended_alone(report)


def test_a_process_without_the_agents_cookie_is_no_supervisor(tampering):
    """Neither an end nor the notice of a request signals it."""
    tampering.rewrite("spawn_tmux", supervisor=tampering.identity)
    why = {"reason": "terminal", "message": "", "detail": {"status": "completed", "by": "report"}}
    tampering.append(kind="request", why=why)
    tampering.scene.orchestrator(recover=True)

    report = tampering.end()

    tampering.assert_ended_alone(report)
    assert str(tampering.stranger.pid) in " ".join(report.kept)


@pytest.mark.parametrize("session", ["agent_{agent}", "main"])
def test_a_session_of_the_old_system_is_believed_as_far_as_its_name_and_files_lead(
    session, tampering
):
    """The old system's agents have no cookie. A stranger has none of the agent's files open."""
    receipt = {
        "session": session.format(agent=tampering.agent),
        "cookie": "",
        "roots": [tampering.identity],
        "logs": [str(tampering.strange / "key")],
        "born": time.time(),
    }
    tampering.plant(step="old", type="legacy_session", receipt=receipt)

    report = tampering.end()

    tampering.assert_ended_alone(report)
    assert "old: " in " ".join(report.kept)


def test_a_process_that_only_the_start_record_names_is_left_alone(tampering):
    (tampering.run / "started").write_text(json.dumps({**tampering.identity, "cgroup": False}))

    report = tampering.end()

    tampering.assert_ended_alone(report)


def test_a_forged_receipt_ends_no_other_agent(tampering):
    other = tampering.orch.deploy(tampering.task, tampering.scene.spec()).id
    root_id = tampering.scene.world.root_id
    cookie = f"oc_{root_id}_{other}"
    tampering.rewrite("spawn_tmux", session=f"agent_{other}", cookie=cookie)
    for step in ("register_task", "register_global", "accept_children"):
        tampering.rewrite(step, agent_id=other)

    report = tampering.end()

    assert report.success
    assert [other] == [agent.id for agent in tampering.orch.agents(status="active")]
    assert [f"agent_{other}"] == tampering.scene.world.sessions()
    assert [] == tampering.scene.world.of_agent(tampering.agent)


# --- what is in the way -----------------------------------------------------------------------


def replace(path, make):
    """Put something else in the place of a file or a directory."""
    path.rename(path.with_name(f"{path.name}-was"))
    make(path)


def obstruct_run_directory(it):
    (it.run / "deep" / "er").mkdir(parents=True)
    (it.run / "deep" / "link").symlink_to(it.strange)
    (it.run / "deep").chmod(0)


def link(it):
    return lambda path: path.symlink_to(it.strange)


OBSTACLES = {
    "a log that is a directory": lambda it: replace(it.log, Path.mkdir),
    "a log that is a FIFO": lambda it: replace(it.log, os.mkfifo),
    "a log that is a symlink": lambda it: replace(
        it.log, lambda path: path.symlink_to(it.strange / "key")
    ),
    "a prompt that is a directory": lambda it: replace(
        it.folder / f"agent_prompt_{it.agent}.txt", Path.mkdir
    ),
    "a directory of mode 0 in the run directory": obstruct_run_directory,
    "a run directory that is a symlink": lambda it: replace(it.run, link(it)),
    "run directories behind a symlink": lambda it: replace(it.run.parent, link(it)),
    "logs behind a symlink": lambda it: replace(it.log.parent, link(it)),
    "an archive that is a symlink": lambda it: replace(it.folder / "archive", link(it)),
    "an archive that is a file": lambda it: replace(it.folder / "archive", Path.touch),
    "an archive of mode 0": lambda it: (it.folder / "archive").chmod(0),
    "a registry that is a FIFO": lambda it: replace(it.folder / "AGENT_REGISTRY.json", os.mkfifo),
    "a registry that is a symlink": lambda it: replace(it.folder / "AGENT_REGISTRY.json", link(it)),
    "a global registry that is a FIFO": lambda it: replace(
        it.scene.root / "registry" / "GLOBAL_REGISTRY.json", os.mkfifo
    ),
    "a lock that is a FIFO": lambda it: replace(it.folder / "AGENT_REGISTRY.json.lock", os.mkfifo),
}


@pytest.mark.parametrize("obstacle", OBSTACLES)
def test_no_obstacle_keeps_an_agent_from_its_end(obstacle, tampering):
    """It is set aside and reported, and no saga waits for a person."""
    OBSTACLES[obstacle](tampering)

    report = tampering.end()

    tampering.assert_ended_alone(report)
    with tampering.scene.orchestrator(recover=True) as after:
        assert ["terminated"] == [agent.status for agent in after.agents()]
        assert after.deploy(tampering.task, tampering.scene.spec()).is_active


HELD = {
    "a file for the directory": lambda _, held: replace(held / "tmp", Path.touch),
    "a symlink for the directory": lambda it, held: replace(held / "tmp", link(it)),
    "a directory for the secrets": lambda _, held: replace(held / "env_file.env", Path.mkdir),
    "a directory for the port": lambda _, held: replace(held / "port.port", Path.mkdir),
    "a symlink for the helper": lambda it, held: replace(held / "subprocess", link(it)),
    "mode 0": lambda _, held: held.chmod(0),
    "mode 0 for all agents": lambda _, held: held.parent.chmod(0),
}


@pytest.mark.parametrize("obstacle", HELD)
def test_no_obstacle_among_its_resources_keeps_an_agent_from_its_end(obstacle, tampering):
    scene = tampering.scene
    for name in ("launch", "exit", "journal"):
        (tampering.strange / name).write_text("mine")
    steps = [
        TempDirectory(),
        EnvFile({"KEY": "x"}),
        ReservedPort(claims=scene.place / "claims"),
        Subprocess(["sleep", "1000"]),
    ]
    agent = tampering.orch.deploy(tampering.task, scene.spec(), extra_steps=steps).id
    HELD[obstacle](tampering, scene.root / "held" / agent)

    report = scene.orchestrator(recover=True).terminate(agent)

    assert report.success, report.errors
    assert {"mine"} == {
        (tampering.strange / name).read_text() for name in ("key", "launch", "exit", "journal")
    }
    assert [] == scene.world.of_agent(agent)
    tampering.assert_ended_alone(tampering.end())


def test_what_was_in_the_way_is_reported_and_kept(tampering):
    replace(tampering.log, Path.mkdir)
    (tampering.log / "precious").write_text("mine")

    report = tampering.end()

    [aside] = tampering.log.parent.glob("*.set-aside-*")
    assert "mine" == (aside / "precious").read_text()
    assert str(aside) in " ".join(report.kept)
