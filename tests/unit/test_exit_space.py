"""The exit record on a full disk: its space is allocated before the agent runs."""

import errno
import json
import os

import pytest

from orchestrator_core.model.environment import ENV_EXIT_RECORD
from orchestrator_core.supervisor import exit_recorder
from orchestrator_core.supervisor.exit_recorder import RESERVED_BYTES, ExitRecorder
from orchestrator_core.system.processes.exit_record import (
    decode_exit_record,
    read_exit_record,
    reserve_exit_records,
)

RECORD = (
    '{"code": 0, "signal": null, "ran_s": 9, "error": null, "cause": "exit",'
    ' "contained": true, "forced": false, "cgroup": false}'
)


class FullDisk:
    """The system calls of a recorder on a disk without space: files neither appear nor grow."""

    def __getattr__(self, name):
        return getattr(os, name)

    def open(self, path, flags, mode=0o777):
        if flags & os.O_CREAT:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        return os.open(path, flags, mode)

    def pwrite(self, fd, data, offset):
        return os.pwrite(fd, data[: max(0, os.fstat(fd).st_size - offset)], offset)


@pytest.fixture
def recorder(tmp_path):
    made = ExitRecorder(str(tmp_path / "exit"), str(tmp_path / "events"))
    yield made
    made.close()


def test_an_exit_is_recorded_twice_on_a_full_disk(recorder, tmp_path, monkeypatch):
    """First the exit status, then that no process is left."""
    reserve_exit_records(str(tmp_path))
    monkeypatch.setattr(exit_recorder, "posix", FullDisk())

    recorder.exited(3 << 8, 1.5)
    first = read_exit_record(tmp_path / "exit")
    recorder.all_exited(tree_empty=True, forced=False)
    last = read_exit_record(tmp_path / "exit")

    assert (3, False) == (first.code, first.contained)
    assert (3, True) == (last.code, last.contained)
    assert recorder.is_written
    assert [tmp_path / "exit"] == [*tmp_path.iterdir()]


def test_an_error_of_any_length_fits_into_the_reserved_space(recorder, tmp_path, monkeypatch):
    reserve_exit_records(str(tmp_path))
    monkeypatch.setattr(exit_recorder, "posix", FullDisk())

    recorder.spawn_failed("\x1b" * 4000)
    recorder.all_exited(tree_empty=True, forced=False)

    assert read_exit_record(tmp_path / "exit").error.startswith("\x1b" * 100)
    assert (tmp_path / "exit").stat().st_size <= RESERVED_BYTES


def test_without_reserved_space_the_record_is_not_written_and_the_caller_knows(
    recorder, tmp_path, monkeypatch
):
    """An earlier release deployed the agent. The record goes to the unwinder all the same."""
    monkeypatch.setattr(exit_recorder, "posix", FullDisk())

    recorder.exited(0, 1.5)
    recorder.all_exited(tree_empty=True, forced=False)

    assert not recorder.is_written
    assert [] == [*tmp_path.iterdir()]
    assert (0, True) == (
        decode_exit_record(recorder.encoded().decode()).code,
        json.loads(recorder.encoded())["contained"],
    )


def test_the_supervisor_and_the_command_line_use_one_name():
    assert exit_recorder.ENV_RECORD == ENV_EXIT_RECORD


@pytest.mark.parametrize(
    ("witnessed", "status"),
    [
        (
            RECORD,
            "completed",
        ),
        ("no record", "error"),
        (None, "error"),
    ],
)
def test_an_unwinder_believes_what_it_witnessed_as_the_supervisor(fake_scene, witnessed, status):
    """The disk was full, so there is no exit record on it."""
    orch = fake_scene.orchestrator()
    agent = orch.deploy(orch.create_task("tried").id, fake_scene.spec())
    fake_scene.fake.reboot()

    end = orch.finish(agent.id, witnessed=witnessed)

    assert (status, True) == (end.status, end.success)
