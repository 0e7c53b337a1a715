"""The launch file: whatever an argument or an environment can hold comes back."""

from __future__ import annotations

import errno
import os
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator_core.supervisor import command, launch
from orchestrator_core.supervisor import spawn as agent
from orchestrator_core.supervisor.gate import end_requested, is_committed, is_unwinding
from orchestrator_core.supervisor.launch import Launch

REQUIRED = {
    "journal": "/j",
    "log": "/l",
    "exit_file": "/r/exit",
    "events": "/r/events",
    "argv": ["a"],
    "env": {},
}

# What os.fsdecode can give: any bytes but NUL.
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


@given(launches)
def test_what_is_written_is_read(told):
    assert told == launch.decode(launch.encode(told))


@given(launches, st.data())
def test_a_file_that_is_cut_short_is_never_taken_for_a_whole_one(told, data):
    whole = launch.encode(told)
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]

    with pytest.raises(ValueError, match="cut short"):
        launch.decode(cut)


def test_the_file_is_its_owners_and_new(tmp_path):
    path = tmp_path / "launch"
    launch.write(str(path), Launch(**REQUIRED))

    assert 0o600 == stat.S_IMODE(path.stat().st_mode)
    assert Launch(**REQUIRED) == launch.read(str(path))
    with pytest.raises(FileExistsError):
        launch.write(str(path), Launch(**REQUIRED))


def test_a_planted_link_is_not_followed(tmp_path):
    (tmp_path / "launch").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(FileExistsError):
        launch.write(str(tmp_path / "launch"), Launch(**REQUIRED))


@pytest.mark.parametrize(
    "wrong", [{"argv": ["a\0b"]}, {"env": {"A": "\0"}}, {"env": {"A=B": ""}}, {"env": {"": ""}}]
)
def test_what_cannot_reach_a_process_is_refused(wrong):
    with pytest.raises(ValueError, match=r"NUL|environment variable"):
        launch.encode(Launch(**REQUIRED | wrong))


def test_the_command_is_an_argv_that_ends_with_the_file():
    argv = command("/run/launch")

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
def test_a_journal_is_understood_by_the_kinds_of_its_lines(
    tmp_path, kinds, committed, unwinding, asked
):
    path = tmp_path / "journal"
    path.write_text("".join(f'{{"kind":"{kind}","crc":"0"}}\n' for kind in kinds))
    fd = os.open(path, os.O_RDONLY)

    told = (is_committed(fd), is_unwinding(fd), end_requested(fd))

    os.close(fd)
    assert (committed, unwinding, asked) == told


def test_a_journal_of_garbage_opens_nothing(tmp_path):
    path = tmp_path / "journal"
    path.write_bytes(b'\xff\0\n{"kind":"\n{"kind":"commit\n{"kind":"commit"')
    fd = os.open(path, os.O_RDONLY)

    told = is_committed(fd)

    os.close(fd)
    assert not told


def test_where_no_process_can_be_started_the_agent_is_refused(monkeypatch):
    def refuse():
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(os, "fork", refuse)

    started = agent.start(Launch(**REQUIRED))

    assert (None, False) == (started.pid, started.in_cgroup)
    assert "no process can be started: Resource temporarily unavailable" == started.refused
