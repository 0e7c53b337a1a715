"""
Small programs that once failed, from a directory beside the checkout, each as one test.

The directory is ``ORCHESTRATOR_CORE_CASES``, or ``../shared/cases``. Without it there is no
test here: each case has a brother among the other tests. A case is a script that prints what
happens. The tests say what is right.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
CASES = Path(os.environ.get("ORCHESTRATOR_CORE_CASES") or TOP.parent / "shared" / "cases")
BIN = Path(sys.executable).parent
COMMAND = str(BIN / "orchestrator-core")
TIMEOUT_S = 170

pytestmark = pytest.mark.tmux


class Case:
    """One run of a case in a separate directory; what it leaves alive is ended."""

    def __init__(self, place):
        self.place = place
        self.mark = f"case-{uuid.uuid4().hex}"
        hidden = ("ORCHESTRATOR", "CLAUDE", "TMUX", "GIT_")
        self.env = {
            name: value for name, value in os.environ.items() if not name.startswith(hidden)
        }
        self.env |= {
            "PY": sys.executable,
            "OC": COMMAND,
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": f"{Path(__file__).parent / 'old_names'}{os.pathsep}{TOP}",
            "TMPDIR": str(place),
            "BASE": str(place),
            "TMUX_TMPDIR": str(place),
            "SHARED_CASE": self.mark,
        }

    def run(self, name, *words, limits="", **variables):
        """Run a case of the directory; return its exit code, and all that it printed."""
        path = CASES / name
        if not path.exists():
            pytest.skip(f"there is no case {name}")
        shell = {".sh": ["bash"], ".py": [sys.executable], ".mjs": ["node"]}[path.suffix]
        argv = [*shell, str(path), *map(str, words)]
        if limits:
            argv = ["bash", "-c", f'{limits}; exec "$@"', "limited", *argv]
        child = subprocess.Popen(
            argv,
            cwd=self.place,
            env={**self.env, **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            printed, _ = child.communicate(timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            printed, _ = child.communicate()
            pytest.fail(f"{name} did not end: {printed[-2000:]!r}")
        text = printed.decode(errors="replace")
        print(text)
        if text.startswith("skipped: "):
            pytest.skip(text.strip())
        return child.returncode, text

    def close(self):
        """End, by its pid, each process that has the mark of this run or serves its sockets."""
        mark, place = self.mark.encode(), os.fsencode(self.place)
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if int(entry.name) == os.getpid():
                    continue
                is_server = (entry / "comm").read_text().startswith("tmux: server")
                has_place = is_server and place in (entry / "cmdline").read_bytes()
                if has_place or mark in (entry / "environ").read_bytes():
                    os.kill(int(entry.name), signal.SIGKILL)
        subprocess.run(["chmod", "-R", "u+rwX", self.place], check=False, capture_output=True)


@pytest.fixture
def case(short_tmp):
    made = Case(short_tmp)
    yield made
    made.close()


def numbers_after(text, words):
    """Return the numbers of the first line that begins with *words*."""
    [line] = [line for line in text.splitlines() if line.startswith(words)]
    return [float(number) for number in re.findall(r"\((\d+(?:\.\d+)?)", line)]


# --- bug: each says by its exit code whether it is right ------------------------------------------

BUGS = sorted(path.name for path in CASES.glob("bug/[0-9]*.sh"))


@pytest.mark.parametrize("name", BUGS)
def test_bug(case, name):
    code, text = case.run(f"bug/{name}")
    if re.search(r"^env: .*: Permission denied$", text, re.MULTILINE):
        pytest.skip("needs a Python that ordinary users can run")
    assert (0, "ok: ") == (code, text[:4])


# --- security: what an agent causes by writing ------------------------------------------------

WRITES = [
    *("prompt", "tree", "pid", "alert", "steps", "mcp", "worktree", "logdir", "loglink"),
    *("logfifo", "runlink", "runparent", "archivelink", "logsparent", "fifos", "runsub"),
    *("registry", "regzero", "regdeep", "tracked", "tracked2", "taskid"),
]  #: Without "logsparse", whose export packs 200 GB.


@pytest.mark.parametrize("what", WRITES)
def test_what_an_agent_writes_causes_no_more_than_its_end(case, what):
    _, text = case.run("security/agent_writes.py", what, limits="ulimit -v 4000000")
    [left] = [line for line in text.splitlines() if line.startswith("STRANGERS LEFT")] or [""]
    if not left:  # A setting that the agent wrote was refused, and the program with it.
        assert "orchestrator_core.exceptions." in text.splitlines()[-1]
        return
    assert "'id_rsa'" in left
    assert "'sub/thesis.txt'" in left
    assert "RAN False" in left
    assert re.search(r"^terminate: .* success=True", text, re.MULTILINE), text
    assert "ENDED" not in text


@pytest.mark.parametrize("module", ["msgspec.py", "logging.py"])
def test_no_module_beside_the_deploying_script_is_imported(case, module):
    _, text = case.run("security/heir_import.sh", module)
    assert "RAN_OUTSIDE" not in text
    assert '"status": "completed"' in text


def ordinary_users():
    """Return two users that may run this Python."""
    found = [user.pw_name for user in pwd.getpwall() if 1000 <= user.pw_uid < 60000]
    able = [
        name
        for name in found
        if subprocess.run(
            ["su", name, "-c", f"{sys.executable} -P -c 'import orchestrator_core'"],
            capture_output=True,
            check=False,
            cwd="/",
        ).returncode
        == 0
    ]
    if len(able) < 2:
        pytest.skip("there are no two ordinary users that can run this Python")
    return able[:2]


@pytest.mark.needs("root")
def test_a_strangers_directory_above_is_neither_used_nor_followed(case):
    one, other = ordinary_users()
    case.place.chmod(0o755)
    _, text = case.run("security/discovery.sh", A=one, B=other, BASE="/var/tmp")
    parts = text.split("== ")
    assert "Traceback" not in text
    assert "no agents" in parts[1]
    assert "chosen" not in parts[2].split("expected")[1].partition("\n")[2]


def test_a_port_is_claimed_and_given_back(case):
    _, text = case.run("security/port_claims.py", HOME=str(case.place))
    assert "terminate success True" in text or "leaked ()" in text


@pytest.mark.needs("root")
def test_the_tests_change_no_program_of_the_machine(case):
    _, text = case.run("security/test_clobbers_id.sh", TOP)
    assert text.endswith("ORIGINAL\n")


# --- code -----------------------------------------------------------------------------------------


def run_code(case, name, **variables):
    return case.run(f"code/{name}.py", OC=str(TOP), **variables)[1]


def test_a_wait_beside_another_unwinder_times_out(case):
    text = run_code(case, "b_busywait", FORMER_ATTRIBUTES="1")
    assert "WaitTimeout" in text
    assert "SagaBusy" not in text


def test_a_saga_that_is_closed_and_not_renamed_has_one_report(case):
    text = run_code(case, "b_closed")
    expected = [f"{name} terminated" for name in ("terminate", "wait", "finish")]
    assert expected == text.splitlines()


def test_a_deadline_of_any_length_works(case):
    text = run_code(case, "b_deadline")
    for days in (24, 25):
        assert re.search(rf"^{days} days: alive \('a-[^']*',\) unwound {{}}", text, re.MULTILINE)


def test_a_repeated_report_is_there_once(case):
    assert run_code(case, "b_dup").splitlines()[-1] == "['one bug']"


def test_an_interrupted_scan_stops_no_other(case):
    assert "hangs: False" in run_code(case, "b_ki")


def test_a_listing_beside_removals_raises_nothing(case):
    assert "calls, 0 raised" in run_code(case, "b_listrace")


def test_an_unreadable_registry_hides_no_other(case):
    text = run_code(case, "b_ps")
    assert "agents []" in text
    assert "tasks [Task(" in text
    assert "raced" not in text


@pytest.mark.parametrize(("name", "longest_ms"), [("b_relief", 900), ("b_relief_cascade", 3500)])
def test_an_end_beside_an_awake_sweeper_waits_for_no_handoff(case, name, longest_ms):
    text = run_code(case, name)
    alone, beside = numbers_after(text, "no sweeper"), numbers_after(text, "sweeper awake")
    assert min(beside) < max(longest_ms, 3 * min(alone))


def test_an_entry_that_vanishes_keeps_no_run_directory(case):
    text = run_code(case, "b_rundir")
    assert "freed" in text
    assert "still there: True" not in text


def test_a_tail_needs_little_memory(case):
    text = run_code(case, "b_tail")
    assert int(re.search(r"peak RSS \+(\d+) MiB", text)[1]) <= 30


def test_a_line_ends_at_its_line_feed_only(case):
    assert r'{"text": "one\u2028two"}' in run_code(case, "b_u2028")


def test_a_wait_of_any_length_works(case):
    text = run_code(case, "b_wait")
    assert "2592000 completed" in text
    assert "inf completed" in text
    assert "Error" not in text


# --- faults ---------------------------------------------------------------------------------------


def test_a_directory_that_cannot_be_looked_at_is_no_traceback(case):
    _, text = case.run("faults/cwd.sh")
    assert "Traceback" not in text
    assert "OSError" not in text
    assert "orchestrator-core: the agent's directory" in text


@pytest.mark.parametrize("how", ["flip", "truncate"])
@pytest.mark.xdist_group("sleep 614")  # The case counts all processes of that name.
def test_a_damaged_journal_ends_no_agent(case, how):
    _, text = case.run("faults/damaged_journal.sh", how)
    [before] = re.findall(r"before: (\d+) alive", text)
    assert [before] == re.findall(r"after ps: (\d+) alive", text)
    assert "0" != before


def test_a_deployment_whose_supervisor_dies_silently_ends(case):
    code, text = case.run("faults/deploy_hangs.py")
    assert (0, False) == (code, "has not returned" in text)


def test_a_terminal_server_that_does_not_answer_costs_one_wait(case):
    _, text = case.run("faults/hung_tmux.sh")
    times = [float(seconds) for seconds in re.findall(r"rc=\d+ ([\d.]+) s", text)]
    assert max(times) < 25
    assert "nothing found" in text


def test_a_forged_record_of_an_end_proves_nothing(case):
    _, text = case.run("faults/lies.sh")
    claims = '"verified_no_zombies": true' in text
    assert not (claims and re.search(r"^alive: [1-9]", text, re.MULTILINE)), text


def test_a_refused_report_is_not_carried_out_later(case):
    _, text = case.run("faults/refused_report.sh")
    before, _, after = text.partition("--- two looks")
    assert "rc 1" in before
    assert '"kind":"request"' not in before
    assert 2 == len(re.findall(r"^w-\S+ +(?:running|working) ", after, re.MULTILINE))


def test_the_removal_of_a_run_directory_is_durable_before_the_journal_is_closed(case):
    subprocess.run(["strace", "-V"], check=True, capture_output=True)
    _, text = case.run("faults/rundir.sh")
    calls = text.partition("--- the state")[0].splitlines()
    removed = max(n for n, call in enumerate(calls) if "AT_REMOVEDIR" in call and "/run" in call)
    synced = [n for n, call in enumerate(calls) if "fsync(" in call and call.rstrip().endswith("0")]
    assert any(removed < n and "/run>" in calls[n] for n in synced), text


# --- mcp --------------------------------------------------------------------------------------


def test_a_living_agent_that_no_registry_lists_keeps_its_files(case):
    _, text = case.run("mcp/f1_reap_live_unrecorded.sh")
    assert "session still alive: agent_builder" in text
    assert "agent_prompt_builder-120000-abcdef.txt" in text.rpartition("log lines")[2]
    assert "/archive/" not in text
    assert "nothing found" not in text


def test_a_refusal_has_its_text_in_a_typescript_client(case):
    modules = os.environ.get("TYPESCRIPT_SDK", "")
    if not modules:
        pytest.skip("needs a directory with the TypeScript SDK 1.x: TYPESCRIPT_SDK")
    (case.place / "node_modules").symlink_to(Path(modules) / "node_modules")
    (case.place / "mcp").symlink_to(CASES / "mcp")
    _, text = case.run(case.place / "mcp" / "f2_ts_errors.mjs")
    assert "THROWS" not in text
    assert 2 == text.count("isError true")


def test_a_dropped_connection_leaves_what_the_documentation_says(case):
    pytest.importorskip("mcp")
    code, text = case.run("mcp/f5_http_drop.py")
    assert 0 == code
    assert "rc 0" in text


# --- soak -------------------------------------------------------------------------------------


def run_soak(case, name, *words):
    return case.run(f"soak/{name}.py", *words, SOAK=str(case.place / "s"))[1]


@pytest.mark.parametrize("how", ["control", "early", "error", "ctrlc", "ctrlc2"])
def test_no_unknown_agent_outlives_an_event_loop(case, how):
    assert "lives on unknown in 0 of 4" in run_soak(case, "b_loop_end", 4, how)


def test_an_interrupted_end_is_no_failed_cleanup(case):
    last = run_soak(case, "b_stuck_by_signal", 40).splitlines()[-1]
    assert " stuck 0 on_failed_cleanup 0 [] alerts run: 0" in last


def test_a_child_forked_beside_first_uses_does_not_hang(case):
    assert "children hung: 0 of 12" in run_soak(case, "b_fork_first", 12)


def test_an_orchestrator_works_when_the_program_exits(case):
    lines = run_soak(case, "b_atexit").splitlines()
    assert lines
    assert [] == [line for line in lines if not line.endswith(" ok") and "RuntimeError" in line]


# --- user -------------------------------------------------------------------------------------


def test_an_agent_finds_the_command_line(case):
    code, text = case.run("user/agent_path.py", PATH="/usr/local/bin:/usr/bin:/bin")
    assert (0, "completed done") == (code, text.splitlines()[0])


def test_a_kill_of_many_prints_each_end(case):
    _, text = case.run("user/kill_silent.sh")
    printed, _, rest = text.partition("exit ")
    left = int(re.search(r"left alive: (\d+) of 20", rest)[1])
    assert printed.count("no process left") >= 20 - left - 1


def test_a_terminal_server_has_no_session_after_the_last_agent(case):
    """It may stay for a minute, which is longer than the case looks."""
    _, text = case.run("user/server_stays.sh")
    assert "0 sessions" in text or "after everything has ended:\nafter rm -rf" in text
    assert "nothing found" in text


def test_a_status_compares_with_its_name(case):
    code, text = case.run("user/status_enum.py")
    assert (0, True) == (code, " True" in text.splitlines()[0])
    assert "InvalidInput" not in text


def test_tasks_are_listed_in_the_order_of_their_creation(case):
    _, text = case.run("user/tasks_order.py")
    assert str([str(number) for number in range(8)]) == text.strip()


@pytest.mark.parametrize("name", ["test_fake_async", "test_fake_threads", "test_inside"])
def test_the_fake_behaves_as_the_world(case, name):
    path = CASES / "user" / f"{name}.py"
    if not path.exists():
        pytest.skip(f"there is no case {name}")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(path)],
        cwd=case.place,
        env=case.env | {"PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert 0 == done.returncode, done.stdout[-3000:]


def test_a_wrong_root_is_no_traceback(case):
    _, text = case.run("user/wrong_root.sh")
    assert "Traceback" not in text
