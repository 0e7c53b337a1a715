"""A crash at any effect: no effect happens after it."""

from __future__ import annotations

import builtins
import contextlib
import io
import os
import shutil
import subprocess
import threading
from pathlib import Path

import pytest

from orchestrator_core import AgentSpec
from orchestrator_core.testing import CrashPoints, Runs, Scene
from orchestrator_core.testing.crashes import CrashPoint, evenly_spaced
from orchestrator_core.testing.effects import CrashAt, CrashedError

SPEC = AgentSpec(type="a", prompt="do it", command=["sleep", "1000"])


def until_crash(act, number, when="before"):
    """Run *act* with a crash; return whether the crash happened."""
    death = CrashAt(None, number, when)
    with death, contextlib.suppress(CrashedError):
        act()
    return death.crashed


def effects_of(act):
    living = CrashAt(None, -1)
    with living:
        act()
    return living.names


# --- what is an effect ---------------------------------------------------------------------------


def test_every_change_outside_the_caller_is_an_effect(tmp_path):
    def act():
        path = tmp_path / "new"
        path.write_text("text")
        path.read_text()
        path.rename(tmp_path / "renamed")
        with (tmp_path / "renamed").open("ab") as file:
            file.write(b"more")
        shutil.copy(tmp_path / "renamed", tmp_path / "copy")
        (tmp_path / "directory").mkdir()
        shutil.rmtree(tmp_path / "directory")
        subprocess.run(["true"], check=True)

    assert [
        "open() new",
        "rename new renamed",
        "open() renamed",
        "open() copy",
        "chmod copy",
        "mkdir directory",
        "rmdir directory",
        "Popen true",
    ] == effects_of(act)


def test_every_call_is_the_original_afterwards():
    before = [os.open, os.write, os.close, io.open, builtins.open, subprocess.Popen.__init__]

    until_crash(lambda: os.write(1, b""), 0)

    assert before == [
        *(os.open, os.write, os.close, io.open, builtins.open),
        subprocess.Popen.__init__,
    ]


def test_effects_of_other_threads_do_not_count(tmp_path):
    """The thread was there before, so it is neither counted nor crashed."""
    go, done = threading.Event(), threading.Event()

    def other():
        go.wait()
        (tmp_path / "theirs").touch()
        done.set()

    thread = threading.Thread(target=other)
    thread.start()

    def act():
        with contextlib.suppress(CrashedError):
            (tmp_path / "ours").mkdir()
        go.set()
        assert done.wait(20)

    assert until_crash(act, 0)
    thread.join()
    assert [tmp_path / "theirs"] == list(tmp_path.iterdir())


# --- death ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("when", "made"), [("before", []), ("after", ["a"])])
def test_no_effect_happens_after_a_crash_whatever_the_code_catches(tmp_path, when, made):
    def act():
        try:
            (tmp_path / "a").mkdir()
        except BaseException:  # noqa: BLE001 - what a dead man would catch
            (tmp_path / "b").mkdir()
        finally:
            (tmp_path / "c").touch()

    assert until_crash(act, 0, when)

    assert made == [path.name for path in tmp_path.iterdir()]


def test_a_buffer_that_was_not_flushed_is_lost(tmp_path):
    """SIGKILL flushes no buffer; an exception that leaves a ``with`` block does."""

    def act():
        with (tmp_path / "a").open("w") as file:
            file.write("flushed ")
            file.flush()
            file.write("buffered")
            (tmp_path / "b").mkdir()

    assert ["open() a", "mkdir b"] == effects_of(act)
    (tmp_path / "b").rmdir()
    assert until_crash(act, 1)

    assert "flushed " == (tmp_path / "a").read_text()


def test_a_crash_releases_locks_and_descriptors(tmp_path):
    import fcntl  # noqa: PLC0415 - for this alone

    def act():
        fd = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
        fcntl.flock(fd, fcntl.LOCK_EX)
        (tmp_path / "b").mkdir()

    before = len(list(Path("/dev/fd").iterdir()))
    assert until_crash(act, 1)

    assert before == len(list(Path("/dev/fd").iterdir()))
    with (tmp_path / "lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


# --- crash points --------------------------------------------------------------------------------


def deploy(orch):
    orch.deploy(orch.create_task("a task").id, SPEC)


def test_a_deployment_survives_a_crash_of_its_deployer_at_a_sample_of_points():
    """After each crash the deployment is complete or gone. The fault tests try every point."""
    seen = []

    points = CrashPoints()(deploy, then=lambda orch: seen.append(len(orch.agents())), at_most=12)

    assert 12 == len(points)
    whole, first, *between, last = seen
    assert (1, 0, 1) == (whole, first, last)
    assert sorted(between) == between


def test_every_effect_is_a_crash_point_and_so_is_the_end():
    def act(orch):
        (orch.root.parent / "a").mkdir()
        (orch.root.parent / "b").write_text("text")
        (orch.root.parent / "c").mkdir()

    points = CrashPoints()(act)

    assert [
        "before effect 0 (mkdir a)",
        "before effect 1 (open() b)",
        "after effect 1 (open() b)",
        "before effect 2 (mkdir c)",
        "after effect 2 (mkdir c)",
    ] == list(map(str, points))


def test_a_leftover_is_reported_with_its_crash_point():
    """A file in an agent's directory that no code removes."""

    def act(orch):
        task = orch.create_task("a task")
        Path(task.workspace, "run", "mine").touch()

    with pytest.raises(AssertionError, match=r"left behind:\nfile TASK-.*/run/mine"):
        CrashPoints()(act)


def test_a_failing_check_names_its_crash_point():
    def act(orch):
        (orch.root.parent / "a").mkdir()
        (orch.root.parent / "b").mkdir()

    def both_or_neither(orch):
        assert 2 != len({path.name for path in orch.root.parent.iterdir()})

    with pytest.raises(AssertionError) as caught:
        CrashPoints()(act, then=both_or_neither)

    assert ["killed before effect 1 (mkdir b), and recovered"] == caught.value.__notes__


def test_the_error_of_a_check_that_fails_without_a_crash_has_the_note_not_killed():
    with pytest.raises(ZeroDivisionError) as caught:
        CrashPoints()(lambda _: None, then=lambda _: 1 / 0)

    assert ["not killed"] == caught.value.__notes__


def test_an_error_of_the_code_under_test_is_raised():
    with pytest.raises(ZeroDivisionError):
        CrashPoints()(lambda _: 1 / 0)


def test_an_error_after_the_crash_is_ignored():
    def act(orch):
        try:
            (orch.root.parent / "a").mkdir()
        except BaseException as error:
            raise RuntimeError("it was not me") from error

    assert 2 == len(CrashPoints()(act))


def test_a_stubborn_agent_is_ended_after_each_crash():
    with Scene() as scene:
        scene.terminal.default = Runs(ignores_term=True, daemon=True)

        assert CrashPoints(scene.terminal)(deploy, at_most=3)


@pytest.mark.parametrize(
    ("at_most", "numbers"),
    [(None, [0, 1, 2, 3, 4]), (9, [0, 1, 2, 3, 4]), (3, [0, 2, 4]), (1, [0])],
)
def test_a_sample_is_evenly_spaced(at_most, numbers):
    points = [CrashPoint(number, "before", "write") for number in range(5)]

    assert numbers == [point.number for point in evenly_spaced(points, at_most)]
