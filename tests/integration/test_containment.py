"""
Containment: species of processes that resist their end, and none of them survives.

Each process is on the roll (see conftest.py), which the kernel keeps. The tests read the
survivors from it without any code of the library.
"""

from __future__ import annotations

import os
import signal
import sys
import uuid
from pathlib import Path

import psutil
import pytest
from support.needs import may_create_cgroups

from orchestrator_core.supervisor.cgroup import Cgroup
from orchestrator_core.system.processes import (
    GracePeriods,
    Identity,
    LocalProcesses,
    OwnershipSelector,
    identity,
    ownership,
    table,
)

HOPPER = """
import os, sys, time
open(sys.argv[1], "w").write(str(os.getpgrp()))
end = time.monotonic() + 60
os.write(9, b"ready")
while time.monotonic() < end:
    if os.fork():
        os._exit(0)
"""

#: The script of each species; $1 is its name on the roll, $2 a directory for it.
ZOO = {
    "plain": 'exec 9>"$1"; echo ready >&9; exec sleep 60',
    "stopped": 'exec 9>"$1"; echo ready >&9; kill -STOP $$; exec sleep 60',
    "deaf": "exec 9>\"$1\"; trap '' HUP INT TERM USR1; echo ready >&9; exec sleep 60",
    "nohup": "exec 9>\"$1\"; nohup sh -c 'echo ready >&9; exec sleep 60' &",
    "group": 'set -m; exec 9>"$1"; { echo ready >&9; exec sleep 60; } &',
    "setsid": "exec 9>\"$1\"; exec setsid -f sh -c 'echo ready >&9; exec sleep 60'",
    "daemon": (
        "exec 9>\"$1\"; (setsid sh -c '(cd /; echo ready >&9; exec sleep 60 <&- >&- 2>&-) &' &)"
    ),
    "bare-daemon": (
        'exec 9>"$1"; (env -i setsid sh -c \'(trap "" TERM; echo ready >&9; exec sleep 60) &\' &)'
    ),
    "hopper": f'exec 9>"$1"; env -i setsid {sys.executable} -c \'{HOPPER}\' "$2/group" &',
    "tmux": (  # Its server stays without sessions, and is on the roll, too.
        'exec 9>"$1"; exec tmux -S "$2/tmux.sock" -f /dev/null start-server ";"'
        ' set -s exit-empty off ";" new-session -d "echo ready > $1; exec sleep 60"'
    ),
}
#: These fork or hide from every scan: only the kernel's containment certainly ends them.
BEYOND_A_SCAN = {"bare-daemon", "hopper"}

METHODS = ["subreaper", pytest.param("cgroup", marks=pytest.mark.needs("cgroup"))]


def deploy(stage, species, *, method="subreaper", then="exec sleep 60"):
    """Deploy an agent that starts all of *species*; return when they have their final form."""
    if method == "cgroup":
        stage.cgroup = stage.processes().cgroup_path(f"oc_{uuid.uuid4().hex[:8]}_agent")
        assert stage.processes().create_cgroup(stage.cgroup)
    script = ""
    for name in species:
        signed, place = stage.roll.expect(name), stage.place / f"of-{name}"
        place.mkdir()
        (place / "come.sh").write_text(ZOO[name])
        script += f"sh {place}/come.sh {signed} {place} &\n"
    stage.deploy("sh", "-c", script + then)
    stage.roll.until_ready()


EACH = [[name] for name in ZOO]
AND_ALL = [*EACH, list(ZOO)]


def ids(species):
    return species[0] if len(species) == 1 else "all"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("species", AND_ALL, ids=ids)
def test_a_termination_from_outside_leaves_no_process_and_proves_it(stage, species, method):
    deploy(stage, species, method=method)

    ending = stage.end()

    assert [] == stage.roll.alive()
    assert (method, True, ()) == (ending.method, ending.proven, ending.survivors)
    assert ending.duration_ms < 1000 * (stage.patience.term_s + stage.patience.kill_s) + 500
    assert 0 == stage.until_over()
    assert stage.cgroup is None or not Path(stage.cgroup).exists()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("species", AND_ALL, ids=ids)
def test_an_exit_of_the_agent_leaves_no_process(stage, species, method):
    """The supervisor ends the rest without a request, and records the proof in the exit file."""
    go = stage.place / "go"
    os.mkfifo(go)
    deploy(stage, species, method=method, then=f"read word < {go}; exit 4")

    go.write_text("now\n")

    stage.until_over()
    end = stage.exit()
    assert [] == stage.roll.alive()
    assert (4, "exit", True) == (end["code"], end["cause"], end["contained"])
    assert "ran\n" == stage.unwinder_ran.read_text()


@pytest.mark.needs("cgroup")
@pytest.mark.parametrize("species", AND_ALL, ids=ids)
def test_a_cgroup_needs_no_supervisor(stage, species):
    """After a kill of the supervisor the kernel still lists all processes."""
    deploy(stage, species, method="cgroup")
    stage.kill_supervisor()

    ending = stage.end()

    assert [] == stage.roll.alive()
    assert ("cgroup", True, ()) == (ending.method, ending.proven, ending.survivors)
    assert not Path(stage.cgroup).exists()


@pytest.mark.needs("cgroup")
@pytest.mark.parametrize("species", AND_ALL, ids=ids)
def test_one_write_kills_a_cgroup(stage, species):
    """A process that forks faster than a scan is killed with the rest."""
    deploy(stage, species, method="cgroup")
    stage.kill_supervisor()

    assert Cgroup(stage.cgroup).kill()

    stage.roll.until_over()
    assert stage.end().proven


@pytest.mark.parametrize("species", [s for s in EACH if not BEYOND_A_SCAN & set(s)], ids=ids)
def test_a_scan_ends_the_processes_without_a_proof(stage, species):
    """Without supervisor and cgroup, a process may have hidden from the scan."""
    deploy(stage, species)
    stage.kill_supervisor()

    ending = stage.end()

    assert [] == stage.roll.alive()
    assert ("scan", False, ()) == (ending.method, ending.proven, ending.survivors)
    assert ending.signalled >= 1


@pytest.mark.parametrize("name", sorted(BEYOND_A_SCAN))
def test_a_process_beyond_a_scan_is_not_reported_as_ended(stage, name):
    deploy(stage, [name])
    stage.kill_supervisor()

    ending = stage.end()

    assert [name] == stage.roll.alive()
    assert ("scan", False) == (ending.method, ending.proven)


def test_an_ordinary_agent_ends_without_force(stage):
    deploy(stage, ["plain", "nohup", "setsid", "daemon", "stopped"])

    ending = stage.end()

    assert [] == stage.roll.alive()
    assert (True, False) == (ending.proven, ending.forced)


def test_a_second_termination_signals_no_process_and_returns_the_same(stage):
    deploy(stage, ["plain"], method="cgroup" if may_create_cgroups() else "subreaper")
    first = stage.end()

    second = stage.end()

    assert (first.method, True, 0) == (second.method, second.proven, second.signalled)


def test_two_concurrent_terminations_both_succeed(stage):
    deploy(stage, ["deaf", "daemon"])
    script = (
        "import sys; from orchestrator_core.system.processes import *;"
        "end = LocalProcesses().terminate_all(OwnershipSelector(sys.argv[1],"
        " supervisor=Identity(sys.argv[2], int(sys.argv[3]), int(sys.argv[4])),"
        " exit_file=sys.argv[5]), GracePeriods(0.4, 3));"
        "print(end.proven, end.survivors)"
    )
    process = stage.supervisor
    other = psutil.Popen(
        [
            sys.executable,
            "-c",
            script,
            stage.cookie,
            process.boot_id,
            str(process.pid),
            str(process.started),
            stage.selector.exit_file,
        ],
        stdout=-1,
        cwd=str(Path.cwd()),
    )

    ending = stage.end()
    output, _ = other.communicate(timeout=20)

    assert [] == stage.roll.alive()
    assert ending.proven
    assert b"True ()" == output.strip()


def test_a_stopped_supervisor_still_contains_its_agent(stage):
    deploy(stage, ["daemon"])
    stage.signal(signal.SIGSTOP)

    ending = stage.end()

    assert [] == stage.roll.alive()
    assert ("subreaper", True) == (ending.method, ending.proven)


# --- protected processes ----------------------------------------------------------------------


def bystander(stage, name, *, cookie=None, cwd="/"):
    """Start a process on the roll that does not belong to the agent."""
    signed = stage.roll.expect(name)
    env = {"PATH": os.environ["PATH"]} | ({"ORCHESTRATOR_COOKIE": cookie} if cookie else {})
    script = f"exec 9>{signed}; echo ready >&9; exec sleep 60 # {stage.cookie}"
    return psutil.Popen(["sh", "-c", script], env=env, cwd=cwd, start_new_session=True)


def test_processes_without_evidence_survive(stage):
    """The agent's cookie in a command line is no evidence, nor is another agent's cookie."""
    mine = bystander(stage, "names-the-cookie")
    other = bystander(stage, "another-agent", cookie=stage.cookie + "x")
    deploy(stage, ["plain", "daemon"])
    stage.kill_supervisor()

    stage.end()

    assert ["another-agent", "names-the-cookie"] == stage.roll.alive()
    for process in (mine, other):
        process.kill()
        process.wait()


def test_a_shell_whose_child_has_the_cookie_survives(stage):
    """One process with the cookie does not make its whole session the agent's."""
    signed = stage.roll.expect("somebodys-shell")
    tried = stage.roll.expect("tried")
    script = (
        f"export TRIED='exec 9>{tried}; echo ready >&9; exec sleep 60';"
        f' ORCHESTRATOR_COOKIE={stage.cookie} sh -c "$TRIED" &'
        f" exec 9>{signed}; echo ready >&9; sleep 60; :"
    )
    shell = psutil.Popen(["sh", "-c", script], start_new_session=True)
    stage.roll.until_ready()

    LocalProcesses().terminate_all(OwnershipSelector(stage.cookie), GracePeriods(0.4, 2))

    assert ["somebodys-shell"] == stage.roll.alive()
    shell.kill()
    shell.wait()


def test_a_recycled_pid_is_never_signalled(stage):
    """The supervisor has died, and the kernel has reused its pid for another process."""
    stranger = bystander(stage, "stranger")
    stage.roll.until_ready()
    now = identity.identify(stranger.pid)
    before = Identity(now.boot_id, now.pid, now.started - 100)

    ending = LocalProcesses().terminate_all(
        OwnershipSelector("nobody", supervisor=before), GracePeriods(0.2, 0.2)
    )

    assert ["stranger"] == stage.roll.alive()
    assert (0, ()) == (ending.signalled, ending.survivors)
    stranger.kill()
    stranger.wait()


def test_another_boots_pid_is_never_signalled_and_its_end_is_certain(stage):
    stranger = bystander(stage, "stranger")
    stage.roll.until_ready()
    now = identity.identify(stranger.pid)

    ending = LocalProcesses().terminate_all(
        OwnershipSelector("nobody", supervisor=Identity("another boot", now.pid, now.started)),
        GracePeriods(0.2, 0.2),
    )

    assert ["stranger"] == stage.roll.alive()
    assert (0, True) == (ending.signalled, ending.proven)
    stranger.kill()
    stranger.wait()


def test_a_tmux_server_with_other_sessions_is_spared(stage, private_tmux):
    """The server was started inside the agent and has its cookie, but serves another session."""
    signed = {name: stage.roll.expect(name) for name in ("own", "anothers")}
    start = ["env", f"ORCHESTRATOR_COOKIE={stage.cookie}", "tmux", "-S", str(private_tmux.socket)]
    for name, cookie in (("own", stage.cookie), ("anothers", "another-agent")):
        psutil.Popen(
            [
                *start,
                "-f",
                "/dev/null",
                "new-session",
                "-d",
                "-e",
                f"ORCHESTRATOR_COOKIE={cookie}",
                f"exec 9>{signed[name]}; echo ready >&9; exec sleep 60",
            ]
        ).wait()
    stage.roll.until_ready()
    server = psutil.Process(private_tmux.pid)

    ending = LocalProcesses().terminate_all(OwnershipSelector(stage.cookie), GracePeriods(0.4, 2))

    assert ["anothers"] == stage.roll.alive(), ending
    assert server.is_running(), ending
    assert server.pid == private_tmux.pid


def test_a_new_fork_of_a_tmux_server_gets_no_signal(stage):
    """Until its exec the fork has the server's cookie, and a signal for it reaches the server."""
    signed = {name: stage.roll.expect(name) for name in ("server", "anothers", "fork")}
    os.mkfifo(stage.place / "never", 0o600)
    another = f"exec 9>{signed['anothers']}; echo ready >&9; exec sleep 60"
    script = (
        f"printf 'tmux: server' > /proc/$$/comm; exec 9>{signed['server']}; echo ready >&9;"
        f' ORCHESTRATOR_COOKIE=another-agent setsid sh -c "{another}" &'
        f" (exec 9>{signed['fork']}; echo ready >&9; read line < {stage.place}/never) &"
        " wait"
    )
    server = psutil.Popen(
        ["sh", "-c", script],
        env={"PATH": os.environ["PATH"], "ORCHESTRATOR_COOKIE": stage.cookie},
        start_new_session=True,
    )
    stage.roll.until_ready()

    ending = LocalProcesses().terminate_all(OwnershipSelector(stage.cookie), GracePeriods(0.4, 2))

    assert ["anothers", "fork", "server"] == stage.roll.alive(), ending
    assert 0 == ending.signalled
    server.kill()
    server.wait()


@pytest.mark.parametrize(
    "directory", ["/sys/fs/cgroup/system.slice", "/sys/fs/cgroup", "/tmp", "/sys/fs/cgroup/../oc_x"]
)
def test_a_cgroup_without_the_prefix_is_never_touched(stage, directory, monkeypatch):
    touched = []
    monkeypatch.setattr("orchestrator_core.supervisor.cgroup.Cgroup.kill", touched.append)
    monkeypatch.setattr("orchestrator_core.supervisor.cgroup.Cgroup.remove", touched.append)

    LocalProcesses().terminate_all(
        OwnershipSelector(stage.cookie, cgroup=directory), GracePeriods(0.2, 0.2)
    )

    assert [] == touched
    assert not LocalProcesses().create_cgroup(directory)


# --- inside and outside -----------------------------------------------------------------------


INSIDE = (
    "import sys; from orchestrator_core.system.processes import *;"
    "claim = OwnershipSelector(sys.argv[1], supervisor=Identity(sys.argv[2], int(sys.argv[3]),"
    " int(sys.argv[4])), cgroup=sys.argv[5] or None);"
    "print(LocalProcesses().includes_self(claim), flush=True);"
    "print(LocalProcesses().terminate_all(claim, GracePeriods(0.1, 0.1)).proven, flush=True)"
)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("how", ["", "env -i PATH=$PATH PYTHONPATH=$PYTHONPATH setsid -w"])
def test_a_process_inside_the_agent_does_not_terminate_itself(stage, how, method):
    """This holds without the environment, as an MCP server, and below a daemon."""
    go = stage.place / "go"
    os.mkfifo(go)
    (stage.place / "inside.py").write_text(INSIDE)
    if method == "cgroup":
        stage.cgroup = stage.processes().cgroup_path(f"oc_{uuid.uuid4().hex[:8]}_agent")
        assert stage.processes().create_cgroup(stage.cgroup)
    stage.begin(
        "sh",
        "-c",
        f"read values < {go}; eval {how} {sys.executable} {stage.place}/inside.py $values",
        env={"PYTHONPATH": str(Path.cwd())},
    )
    stage.note("commit")
    stage.let_go()
    process = stage.supervisor
    go.write_text(
        f'{stage.cookie} {process.boot_id} {process.pid} {process.started} "{stage.cgroup or ""}"\n'
    )

    stage.until_over()

    assert "True\nFalse\n" == stage.log.read_text()
    assert (0, "exit") == (stage.exit()["code"], stage.exit()["cause"])
    assert (
        stage.cgroup is None
        or LocalProcesses().terminate_all(stage.selector, GracePeriods(0.1, 1)).proven
    )


def test_the_orchestrator_is_outside_its_agents(stage):
    deploy(stage, ["plain"])

    assert not stage.processes().includes_self(stage.selector)


def test_the_unwinder_is_outside_and_terminates_the_rest(stage):
    """The unwinder is the selector's own supervisor, and must not terminate itself."""
    result = stage.place / "result"
    script = (
        "import os, sys; sys.path.insert(0, sys.argv[1]);"
        "from orchestrator_core.system.processes import *; local = LocalProcesses();"
        "claim = OwnershipSelector(sys.argv[2], supervisor=local.identify(os.getpid()),"
        " exit_file=sys.argv[3]);"
        "end = local.terminate_all(claim, GracePeriods(0.2, 2));"
        "print(local.includes_self(claim), end.method, end.proven, end.signalled,"
        " file=open(sys.argv[4], 'w'))"
    )
    command = [sys.executable, "-c", script, str(Path.cwd()), stage.cookie, f"{stage.run}/exit"]
    stage.deploy("true", unwinder_argv=[*command, str(result)])

    assert 0 == stage.until_over()

    assert "False subreaper True 0\n" == result.read_text()


# --- nothing to end ---------------------------------------------------------------------------


def test_an_agent_that_never_started_is_proved_to_have_no_process(stage):
    """The launch file still exists, so no supervisor has passed its gate."""
    stage.begin("sleep", "60")

    ending = stage.end()

    assert (True, False, ()) == (ending.proven, ending.forced, ending.survivors)
    assert -signal.SIGTERM == stage.until_over()


def test_a_supervisor_is_found_by_its_cookie_alone(stage):
    """The deployer died before it had recorded the pid."""
    stage.begin("sleep", "60")
    stage.kill_supervisor()
    os.environ["ORCHESTRATOR_COOKIE"] = stage.cookie
    try:
        stage._start()
    finally:
        del os.environ["ORCHESTRATOR_COOKIE"]
    claim = OwnershipSelector(stage.cookie, exit_file=stage.selector.exit_file)

    ending = LocalProcesses().terminate_all(claim, stage.patience)

    assert (True, 1) == (ending.proven, ending.signalled)
    assert -signal.SIGTERM == stage.until_over()


def test_a_missing_run_directory_proves_nothing(stage):
    stage.deploy("sleep", "60")
    stage.kill_supervisor()

    ending = LocalProcesses().terminate_all(
        OwnershipSelector(stage.cookie, supervisor=stage.supervisor), stage.patience
    )

    assert ("scan", False, ()) == (ending.method, ending.proven, ending.survivors)


# --- containments that cannot be had ----------------------------------------------------------


def test_an_agent_whose_cgroup_is_missing_runs_without_one(stage):
    stage.cgroup = "/sys/fs/cgroup/oc_missing"

    deploy(stage, ["daemon"])
    ending = stage.end()

    assert [] == stage.roll.alive()
    assert ("subreaper", True) == (ending.method, ending.proven)
    assert not stage.exit()["cgroup"]


def test_a_scan_covers_the_sessions_and_children_of_the_agent(stage):
    """The table alone shows this, before any process is terminated."""
    stage.sh("echo ready >&9; env -i sleep 60 & exec sleep 60")
    stage.roll.until_ready()
    agent = ownership.exit_record.read_start_record(stage.selector.run_dir)
    stage.kill_supervisor()

    found = {row.pid for row in ownership.owned_rows(stage.selector)}

    theirs = {row.pid for row in table.snapshot() if row.sid == agent.pid}
    assert agent.pid in found
    assert theirs == found
    stage.end()
