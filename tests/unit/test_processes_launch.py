"""The launch file, and the gate's reading of a journal."""

from __future__ import annotations

import errno
import marshal
import os
import posix
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator_core.supervisor import launch, spawn
from orchestrator_core.supervisor.gate import end_requested, is_committed, is_unwinding
from orchestrator_core.supervisor.launch import Launch
from orchestrator_core.system import durable

REQUIRED = {
    "journal": "/j",
    "log": "/l",
    "exit_file": "/r/exit",
    "events": "/r/events",
    "argv": ["a"],
    "env": {},
}

# The strings that os.fsdecode can return: any bytes but NUL.
words = st.binary(max_size=40).map(lambda raw: os.fsdecode(raw.replace(b"\0", b"")))
names = words.filter(lambda word: word and "=" not in word)
environments = st.dictionaries(names, words, max_size=5)
seconds = st.floats(0, 1e6)
launches = st.builds(
    Launch,
    journal=words,
    log=words,
    exit_file=words,
    events=words,
    argv=st.lists(words, min_size=1, max_size=5),
    env=environments,
    cwd=words,
    stdin=words,
    cgroup=st.none() | words,
    term_s=seconds,
    kill_s=seconds,
    linger_s=seconds,
    deadline_s=st.none() | seconds,
    unwinder_argv=st.lists(words, max_size=5),
    unwinder_env=environments,
)


def write(path):
    durable.create(path, launch.encode(Launch(**REQUIRED)), durable=False)


@given(launches)
def test_a_launch_is_read_as_it_was_written(config):
    assert vars(config) == vars(launch.decode(launch.encode(config)))


@given(launches, st.data())
def test_a_truncated_file_is_never_read_as_a_whole_one(config, data):
    whole = launch.encode(config)
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]

    with pytest.raises(ValueError, match="not a whole launch file"):
        launch.decode(cut)


def test_a_file_without_a_required_entry_is_refused():
    with pytest.raises(ValueError, match="'journal'"):
        launch.decode(marshal.dumps({"log": "/l"}))


def test_a_launch_file_is_new_and_its_owners(tmp_path):
    path = tmp_path / "launch"
    write(path)

    assert 0o600 == stat.S_IMODE(path.stat().st_mode)
    assert vars(Launch(**REQUIRED)) == vars(launch.read(str(path)))
    with pytest.raises(FileExistsError):
        write(path)


def test_a_symlink_in_place_of_the_file_is_not_followed(tmp_path):
    (tmp_path / "launch").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(FileExistsError):
        write(tmp_path / "launch")


@pytest.mark.parametrize(
    "wrong", [{"argv": ["a\0b"]}, {"env": {"A": "\0"}}, {"env": {"A=B": ""}}, {"env": {"": ""}}]
)
def test_a_value_that_cannot_reach_a_process_is_refused(wrong):
    with pytest.raises(ValueError, match=r"NUL|environment variable"):
        launch.encode(Launch(**REQUIRED | wrong))


def test_the_command_is_an_argv_that_ends_with_the_file():
    argv = launch.command("/run/launch")

    assert "/run/launch" == argv[-1]
    assert ["-I", "-S", "-c"] == argv[1:4]


@pytest.mark.parametrize(
    ("kinds", "committed", "unwinding", "asked"),
    [
        ([], False, False, False),
        (["begin", "intent", "done"], False, False, False),
        (["begin", "commit"], True, False, False),
        (["begin", "commit", "request", "note"], True, False, True),
        (["begin", "commit", "unwind"], False, True, False),
        (["begin", "unwind", "close"], False, True, False),
        (["begin", "commit", "close"], False, True, False),
    ],
)
def test_a_journals_kinds_of_lines_decide_what_the_gate_reads(
    tmp_path, kinds, committed, unwinding, asked
):
    path = tmp_path / "journal"
    path.write_text("".join(f'{{"kind":"{kind}","crc":"0"}}\n' for kind in kinds))
    fd = os.open(path, os.O_RDONLY)

    kinds_mean = (is_committed(fd), is_unwinding(fd), end_requested(fd))

    os.close(fd)
    assert (committed, unwinding, asked) == kinds_mean


def test_a_journal_of_garbage_does_not_open_the_gate(tmp_path):
    path = tmp_path / "journal"
    path.write_bytes(b'\xff\0\n{"kind":"\n{"kind":"commit\n{"kind":"commit"')
    fd = os.open(path, os.O_RDONLY)

    committed = is_committed(fd)

    os.close(fd)
    assert not committed


def test_an_agent_is_refused_where_no_process_can_be_started(monkeypatch):
    def refuse():
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(posix, "fork", refuse)

    started = spawn.start(Launch(**REQUIRED))

    assert (None, False) == (started.pid, started.in_cgroup)
    assert "no process can be started: Resource temporarily unavailable" == started.refused
