"""Processes: identities, handles, two tables with the same rows, cgroups and exit records."""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import attrs
import psutil
import pytest

from orchestrator_core.exceptions import CouldNotAsk, InvalidInput, OutOfSight
from orchestrator_core.supervisor import procfs
from orchestrator_core.supervisor.cgroup import Cgroup
from orchestrator_core.system.boot import boot_id
from orchestrator_core.system.event_reader import wait_readable
from orchestrator_core.system.processes import (
    GracePeriods,
    Identity,
    LocalProcesses,
    OwnershipSelector,
    cgroups,
    read_exit_record,
    table,
)
from orchestrator_core.system.processes.exit_record import digest

LONG_S = 20
WITNESSED = {
    "code": 0,
    "signal": None,
    "ran_s": 1.0,
    "error": None,
    "cause": "exit",
    "contained": True,
    "forced": False,
    "cgroup": False,
}


@pytest.fixture
def local():
    return LocalProcesses()


@pytest.fixture
def child():
    """A process that sleeps for longer than a test takes."""
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def zombie():
    """A process that has ended and is not reaped."""
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    yield process
    process.wait()


# --- identities ---------------------------------------------------------------------------


def test_a_living_process_has_one_identity(local, child):
    child_identity = local.identify(child.pid)

    assert child_identity == local.identify(child.pid)
    assert child_identity != local.identify(os.getpid())
    assert local.is_alive(child_identity)


def test_a_zombie_is_dead(local, zombie):
    """kill(pid, 0) succeeds for it; tmux leaves zombies for seconds."""
    os.kill(zombie.pid, 0)

    assert None is local.identify(zombie.pid)
    assert zombie.pid not in {row.pid for row in table.snapshot()}


def test_a_zombie_known_by_its_identity_is_dead_and_cannot_be_signalled(local):
    process = subprocess.Popen(["sleep", "60"])
    child_identity = local.identify(process.pid)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)

    assert not local.is_alive(child_identity)
    assert not local.signal(child_identity, signal.SIGTERM)
    process.wait()


@pytest.mark.parametrize("pid", [0, -1, 2**22 + 1, 2**31 - 1, 2**40])
def test_a_free_pid_has_no_identity_and_gets_no_signal(local, pid):
    assert None is local.identify(pid)
    assert not local.signal(Identity(boot_id(), pid, 1), signal.SIGKILL)


@pytest.mark.parametrize(("boot", "later"), [(None, 1), ("another", 0)])
def test_a_pid_with_another_start_or_boot_is_another_process(local, child, boot, later):
    now = local.identify(child.pid)
    other = Identity(boot or now.boot_id, now.pid, now.started + later)

    assert not local.is_alive(other)
    assert not local.signal(other, signal.SIGKILL)
    assert local.watch(other, timeout_s=LONG_S).exited
    assert None is child.poll()


def test_a_process_of_another_namespace_is_neither_alive_nor_dead(local, child):
    """Its pid and its start time mean another process here, or none."""
    now = local.identify(child.pid)
    for other in (attrs.evolve(now, pid_ns=1), attrs.evolve(now, time_ns=1)):
        for question in (
            local.is_alive,
            lambda it: local.signal(it, signal.SIGKILL),
            lambda it: local.watch(it, timeout_s=LONG_S),
            lambda it: local.includes_self(OwnershipSelector("a cookie", supervisor=it)),
            lambda it: local.owned_processes(OwnershipSelector("a cookie", supervisor=it)),
            lambda it: local.terminate_all(
                OwnershipSelector("a cookie", supervisor=it), GracePeriods()
            ),
        ):
            with pytest.raises(OutOfSight):
                question(other)
        assert not local.is_alive(attrs.evolve(other, boot_id="another"))
    assert None is child.poll()


def test_an_identity_of_an_earlier_release_has_no_namespaces_and_is_compared_without(local, child):
    now = local.identify(child.pid)

    assert now.pid_ns == Path("/proc/self/ns/pid").stat().st_ino
    assert local.is_alive(Identity(now.boot_id, now.pid, now.started))
    assert not local.is_alive(Identity(now.boot_id, now.pid, now.started + 1))


def test_a_signal_reaches_its_process(local, child):
    assert local.signal(local.identify(child.pid), signal.SIGTERM)

    assert -signal.SIGTERM == child.wait(LONG_S)


def test_a_survivor_of_an_earlier_end_is_named_while_it_lives_and_never_signalled(
    local, child, tmp_path
):
    """Neither a receipt nor an exit record proves that it is the agent's."""
    known = local.identify(child.pid)
    record = {**WITNESSED, "contained": False, "survivors": [[known.pid, known.started]]}
    (tmp_path / "exit").write_text(json.dumps(record))
    brief = GracePeriods(term_s=0.1, kill_s=0.1)
    for selector in (
        OwnershipSelector("a cookie", survivors=(known,)),
        OwnershipSelector("a cookie", exit_file=str(tmp_path / "exit")),
    ):
        result = local.terminate_all(selector, brief)
        assert [(child.pid, False)] == [(one.pid, one.denied) for one in result.survivors]
        assert not result.proven
        assert None is child.poll()
    child.kill()
    child.wait()

    assert () == local.terminate_all(selector, brief).survivors


@pytest.mark.parametrize(
    ("secret", "witness", "proven"),
    [("s-1", digest("s-1"), True), ("s-2", digest("s-1"), False), ("", None, True)],
    ids=["the supervisor's", "forged", "of an earlier release"],
)
def test_only_a_record_with_the_supervisors_secret_is_a_proof(secret, witness, proven, tmp_path):
    (tmp_path / "exit").write_text(json.dumps({**WITNESSED, "secret": secret}))
    selector = OwnershipSelector("a cookie", exit_file=str(tmp_path / "exit"), witness=witness)

    result = LocalProcesses(containment="subreaper").terminate_all(selector, GracePeriods())

    assert proven == result.proven


def test_a_process_older_than_the_supervisor_is_no_survivor(local, child, tmp_path):
    """An agent that writes its exit record itself cannot name the machine's other processes."""
    now = local.identify(child.pid)
    record = {**WITNESSED, "contained": False, "survivors": [[now.pid, now.started]]}
    (tmp_path / "exit").write_text(json.dumps(record))
    younger = Identity(now.boot_id, 2**22 + 1, now.started + 1)
    selector = OwnershipSelector("a", supervisor=younger, exit_file=str(tmp_path / "exit"))

    assert () == local.terminate_all(selector, GracePeriods(term_s=0.1, kill_s=0.1)).survivors


# --- watching -------------------------------------------------------------------------------


def test_a_watch_sees_the_end_of_a_process(local, child):
    child_identity = local.identify(child.pid)
    child.kill()

    seen = local.watch(child_identity, timeout_s=LONG_S)

    assert (True, False) == (seen.exited, seen.readable)


def test_a_watch_sees_a_readable_descriptor_before_the_end(local, child):
    reader, writer = os.pipe()
    os.write(writer, b"!")

    seen = local.watch(local.identify(child.pid), timeout_s=LONG_S, fd=reader)

    assert (False, True) == (seen.exited, seen.readable)
    os.close(writer)
    os.close(reader)


def test_a_watch_sees_that_all_writers_have_closed(local):
    reader, writer = os.pipe()
    os.close(writer)

    assert local.watch(None, timeout_s=LONG_S, fd=reader).readable
    os.close(reader)


def test_a_watch_of_a_dead_process_reports_readable_data_too(local, zombie):
    reader, writer = os.pipe()
    os.write(writer, b"!")

    seen = local.watch(Identity(boot_id(), zombie.pid, 1), timeout_s=LONG_S, fd=reader)

    assert (True, True) == (seen.exited, seen.readable)
    os.close(writer)
    os.close(reader)


def test_a_watch_ends_after_its_timeout(local, child):
    began = time.monotonic()

    seen = local.watch(local.identify(child.pid), timeout_s=0.1)

    assert (False, False) == (seen.exited, seen.readable)
    assert 0.09 < time.monotonic() - began < LONG_S


def test_a_process_that_cannot_be_read_does_not_count_as_dead(local, child):
    """Without free descriptors nothing is known, so no agent is ended as dead."""
    child_identity = local.identify(child.pid)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    answers = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        for ask in (
            lambda: local.is_alive(child_identity),
            lambda: local.signal(child_identity, signal.SIGTERM),
            lambda: local.watch(child_identity, timeout_s=0),
        ):
            try:
                answers.append(ask())
            except CouldNotAsk:
                answers.append("could not ask")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert ["could not ask"] * 3 == answers
    assert local.is_alive(child_identity)


def test_every_handle_is_closed(local, child):
    before = set(Path("/proc/self/fd").iterdir())
    for _ in range(50):
        local.watch(local.identify(child.pid), timeout_s=0)
        local.signal(local.identify(child.pid), 0)

    assert before == set(Path("/proc/self/fd").iterdir())


# --- tables -----------------------------------------------------------------------------------


def test_both_tables_have_the_same_rows(child):
    """psutil replaces /proc where there is none."""
    env = {"PATH": os.environ["PATH"], "ORCHESTRATOR_COOKIE": "a=b c"}
    marked = subprocess.Popen(["sleep", "60"], env=env, start_new_session=True)
    mine = {os.getpid(), os.getppid(), child.pid, marked.pid}

    by_proc = {row.pid: row for row in table.proc_rows() if row.pid in mine}
    by_psutil = {row.pid: row for row in table.psutil_rows() if row.pid in mine}
    marked.kill()
    marked.wait()

    assert mine == set(by_proc) == set(by_psutil)
    for pid in mine:
        one, other = by_proc[pid], by_psutil[pid]
        assert _but_start(one) == _but_start(other)
        ticks = os.sysconf("SC_CLK_TCK")
        assert one.started / ticks == pytest.approx(other.started / 1e6 - _boot_time(), abs=2)
    assert "a=b c" == by_proc[marked.pid].cookie
    assert marked.pid == by_proc[marked.pid].sid


def _but_start(row):
    return (row.pid, row.ppid, row.pgid, row.sid, row.comm, row.cookie)


def _boot_time():
    return psutil.boot_time()


def test_both_tables_omit_zombies(zombie):
    assert zombie.pid not in {row.pid for row in table.proc_rows()}
    assert zombie.pid not in {row.pid for row in table.psutil_rows()}


def test_a_process_during_an_exec_is_found(monkeypatch):
    """During an exec a process has memory but no code and no environment, for about 1 ms."""
    line = b"77 (sh) R 1 77 77 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 4242 9 1 9 %d 1 1"
    looks = iter([0, 0, 0, 0, 1])
    last = []

    def stat(_pid):
        last[:] = [next(looks)]
        return procfs.Stat(line % last[0])

    environ = [b"", b"ORCHESTRATOR_COOKIE=mine\0"]
    monkeypatch.setattr(table.procfs, "pids", lambda: [77])
    monkeypatch.setattr(table.procfs, "stat", stat)
    monkeypatch.setattr(table.procfs, "environ", lambda _pid: environ[last[0]])

    assert ["mine"] == [row.cookie for row in table.proc_rows()]


def test_a_new_fork_of_a_tmux_server_is_read_after_its_exec(monkeypatch):
    """Until its exec the fork has the server's name and environment."""
    line = b"%d (%s) R %d 70 70 0 -1 64 0 0 0 0 0 0 0 0 20 0 1 0 4242 9 1 9 1 1 1"
    names = iter([b"tmux: server"] * 4 + [b"utempter"])

    def stat(pid):
        return procfs.Stat(
            line % (77, next(names), 70) if pid == 77 else line % (pid, b"tmux: server", 1)
        )

    monkeypatch.setattr(table.procfs, "pids", lambda: [77, 70])
    monkeypatch.setattr(table.procfs, "stat", stat)
    monkeypatch.setattr(table.procfs, "environ", lambda _pid: b"ORCHESTRATOR_COOKIE=mine\0")

    assert {70: "tmux: server", 77: "utempter"} == {row.pid: row.comm for row in table.proc_rows()}


def test_a_table_without_the_own_process_is_an_error(monkeypatch):
    """Without free descriptors /proc seems empty."""
    monkeypatch.setattr(table.procfs, "pids", list)
    with pytest.raises(CouldNotAsk, match="this process"):
        table.snapshot()


@pytest.mark.parametrize(
    ("environ", "cookie"),
    [
        (b"ORCHESTRATOR_COOKIE=x\0", "x"),
        (b"A=1\0ORCHESTRATOR_COOKIE=x\0B=2\0", "x"),
        (b"A=1\0ORCHESTRATOR_COOKIE=x", "x"),
        (b"MY_ORCHESTRATOR_COOKIE=x\0", None),
        (b"A=ORCHESTRATOR_COOKIE=x\0", None),
        (b"ORCHESTRATOR_COOKIE=\0", ""),
        (b"", None),
    ],
)
def test_a_cookie_is_a_whole_entry_of_the_environment(environ, cookie):
    assert cookie == table._parse_cookie(environ)


def test_a_name_with_parentheses_and_spaces_does_not_shift_the_fields():
    line = b"77 (a) b) (R 1 2) S 5 6 7 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 4242 9 1 9 1 1 1"

    seen = procfs.Stat(line)

    assert (77, "a) b) (R 1 2", "S", 5, 6, 7, 4242) == (
        *(seen.pid, seen.comm, seen.state),
        *(seen.ppid, seen.pgid, seen.sid, seen.started),
    )


def test_descendants_of_all_generations_are_found():
    program = (
        "import os, time\nfor _ in 'ab':\n  if os.fork(): break\nos.write(1, b'!')\ntime.sleep(60)"
    )
    root = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, start_new_session=True
    )
    for _ in range(3):
        assert b"!" == os.read(root.stdout.fileno(), 1)

    found = procfs.descendants(root.pid)

    os.killpg(root.pid, signal.SIGKILL)
    root.communicate()
    assert [root.pid, found[0].pid] == [seen.ppid for seen in found]


# --- cgroups ------------------------------------------------------------------------------------


def _mountinfo(root, directory):
    return f"31 23 0:28 {root} {directory} rw,relatime shared:9 - cgroup2 cgroup2 rw\n".encode()


@pytest.mark.parametrize(
    ("root", "own", "expected"),
    [
        ("/", "/", ""),
        ("/", "/user.slice/a.scope", "user.slice/a.scope"),
        ("/", "/user.slice/oc_1_agent", "user.slice"),
        ("/", "/oc_1_parent/oc_2_child", ""),
        ("/docker/x", "/docker/x", ""),
        ("/docker/x", "/docker/x/init", "init"),
    ],
)
def test_a_new_cgroup_is_a_sibling_and_never_inside_an_agents(
    monkeypatch, tmp_path, root, own, expected
):
    base = tmp_path / expected
    base.mkdir(parents=True, exist_ok=True)
    (base / "cgroup.procs").touch()
    files = {
        "/proc/self/mountinfo": _mountinfo(root, tmp_path),
        "/proc/self/cgroup": f"4:memory:/elsewhere\n0::{own}\n".encode(),
    }
    monkeypatch.setattr(cgroups.procfs, "read", files.__getitem__)

    assert str(base / "oc_3_new") == cgroups.path_for("oc_3_new")


@pytest.mark.parametrize("name", ["../oc_x", "oc_x/y", "", "other", "oc_x\n", "oc_."])
def test_a_cgroup_name_without_the_prefix_is_refused(name):
    assert None is cgroups.path_for(name)


def test_a_system_without_cgroup_version_2_has_no_cgroup_path(monkeypatch):
    real = cgroups.procfs.read
    monkeypatch.setattr(cgroups.procfs, "read", lambda _path: b"")

    assert None is cgroups.path_for("oc_1_agent")
    assert not cgroups.is_managed("/sys/fs/cgroup/oc_1_agent")

    # The process may have had no free descriptors before: the mount is read again.
    shown = {"/proc/self/mountinfo": _mountinfo("/", "/sys/fs/cgroup")}
    monkeypatch.setattr(cgroups.procfs, "read", lambda path: shown.get(path) or real(path))
    assert cgroups.is_managed("/sys/fs/cgroup/oc_1_agent")


# --- choices ----------------------------------------------------------------------------------


def test_the_environment_chooses_the_containment(monkeypatch):
    monkeypatch.setenv("ORCHESTRATOR_CONTAINMENT", "subreaper")

    assert None is LocalProcesses().cgroup_path("oc_1_agent")


def test_an_unknown_containment_is_refused_with_the_choices():
    with pytest.raises(InvalidInput, match="'jail' is not one of auto, cgroup, subreaper, scan"):
        LocalProcesses(containment="jail")


@pytest.mark.parametrize("content", [None, "", "{", '{"code": "one"}', "[]"])
def test_an_invalid_exit_file_is_no_record(tmp_path, content):
    path = tmp_path / "exit"
    if content is not None:
        path.write_text(content)

    assert None is read_exit_record(path)


def test_an_import_of_processes_does_not_import_psutil_beside_proc():
    program = "import orchestrator_core.system.processes, sys; print('psutil' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)

    assert b"False\n" == done.stdout


def test_a_wait_for_no_descriptor_ends_at_its_deadline():
    assert [] == wait_readable([], time.monotonic() + 0.01, events=select.POLLIN)


# --- what cannot be asked ---------------------------------------------------------------------


@pytest.fixture
def out_of_reach(tmp_path):
    """A path below a symlink loop, which not even root can read."""
    (tmp_path / "loop").symlink_to("loop")
    return tmp_path / "loop" / "below"


def test_a_cgroup_that_cannot_be_read_counts_as_populated(tmp_path, out_of_reach):
    asked, gone = Cgroup(str(out_of_reach)), Cgroup(str(tmp_path / "gone"))

    assert (True, False) == (asked.is_populated(), asked.remove())
    assert (False, True) == (gone.is_populated(), gone.remove())


def test_an_unreadable_exit_file_is_an_error(tmp_path):
    """Otherwise, without free descriptors, a finished agent would be recorded as lost."""
    record = tmp_path / "exit"
    record.write_text(json.dumps(WITNESSED))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        with pytest.raises(CouldNotAsk, match="Too many open files"):
            read_exit_record(record)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert read_exit_record(record).contained


@pytest.mark.parametrize(
    "put", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("record"), None]
)
def test_another_file_type_in_place_of_the_exit_file_is_no_record(tmp_path, put):
    (tmp_path / "record").write_text(json.dumps(WITNESSED))
    if put is not None:
        put(tmp_path / "exit")

    assert read_exit_record(tmp_path / "exit") is None


def test_an_unreadable_run_directory_proves_nothing(tmp_path, local, out_of_reach):
    """A missing run directory proves that no supervisor was started; an unreadable one does not."""

    def end(run):
        claim = OwnershipSelector("oc_unit_never", exit_file=str(run / "exit"))
        return local.terminate_all(claim, GracePeriods(term_s=0.1, kill_s=0.1))

    assert (True, False) == (end(tmp_path / "gone").proven, end(out_of_reach).proven)
