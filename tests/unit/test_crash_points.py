"""CrashAt at any effect: nothing happens after it, whatever the dead had in mind."""

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


def until_death(act, number, when="before"):
    """Act until death comes; return whether it came."""
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


def test_whatever_outlives_the_caller_is_an_effect(tmp_path):
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


def test_afterwards_every_call_is_the_original():
    before = [os.open, os.write, os.close, io.open, builtins.open, subprocess.Popen.__init__]

    until_death(lambda: os.write(1, b""), 0)

    assert before == [
        *(os.open, os.write, os.close, io.open, builtins.open),
        subprocess.Popen.__init__,
    ]


def test_what_another_thread_does_is_none_of_ours(tmp_path):
    """It was there before; it is neither counted nor killed."""
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

    assert until_death(act, 0)
    thread.join()
    assert [tmp_path / "theirs"] == list(tmp_path.iterdir())


# --- death ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("when", "made"), [("before", []), ("after", ["a"])])
def test_nothing_happens_after_death_whatever_it_catches(tmp_path, when, made):
    def act():
        try:
            (tmp_path / "a").mkdir()
        except BaseException:  # noqa: BLE001 - what a dead man would catch
            (tmp_path / "b").mkdir()
        finally:
            (tmp_path / "c").touch()

    assert until_death(act, 0, when)

    assert made == [path.name for path in tmp_path.iterdir()]


def test_what_is_still_in_a_buffer_is_lost(tmp_path):
    """A kill -9 flushes nothing; an exception that leaves a ``with`` does."""

    def act():
        with (tmp_path / "a").open("w") as file:
            file.write("flushed ")
            file.flush()
            file.write("buffered")
            (tmp_path / "b").mkdir()

    assert ["open() a", "mkdir b"] == effects_of(act)
    (tmp_path / "b").rmdir()
    assert until_death(act, 1)

    assert "flushed " == (tmp_path / "a").read_text()


def test_the_dead_hold_no_lock_and_no_descriptor(tmp_path):
    import fcntl  # noqa: PLC0415 - for this alone

    def act():
        fd = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
        fcntl.flock(fd, fcntl.LOCK_EX)
        (tmp_path / "b").mkdir()

    before = len(list(Path("/dev/fd").iterdir()))
    assert until_death(act, 1)

    assert before == len(list(Path("/dev/fd").iterdir()))
    with (tmp_path / "lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


# --- crash points --------------------------------------------------------------------------------


def deploy(orch):
    orch.deploy(orch.create_task("a task").id, SPEC)


def test_a_deployment_survives_its_deployers_death_at_a_sample_of_points():
    """All or nothing, each time; the library's own suites try every point."""
    seen = []

    points = CrashPoints()(deploy, then=lambda orch: seen.append(len(orch.agents())), at_most=12)

    assert 12 == len(points)
    whole, first, *between, last = seen
    assert (1, 0, 1) == (whole, first, last)
    assert sorted(between) == between


def test_every_effect_is_a_point_and_the_one_after_the_last():
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


def test_what_is_left_behind_is_told_with_the_point():
    """A file of its own in an agent's place, which nobody would ever remove."""

    def act(orch):
        task = orch.create_task("a task")
        Path(task.workspace, "run", "mine").touch()

    with pytest.raises(AssertionError, match=r"left behind:\nfile TASK-.*/run/mine"):
        CrashPoints()(act)


def test_a_check_that_fails_says_where():
    def act(orch):
        (orch.root.parent / "a").mkdir()
        (orch.root.parent / "b").mkdir()

    def both_or_neither(orch):
        assert 2 != len({path.name for path in orch.root.parent.iterdir()})

    with pytest.raises(AssertionError) as caught:
        CrashPoints()(act, then=both_or_neither)

    assert ["killed before effect 1 (mkdir b), and recovered"] == caught.value.__notes__


def test_a_check_that_fails_though_nobody_was_killed_says_so():
    with pytest.raises(ZeroDivisionError) as caught:
        CrashPoints()(lambda _: None, then=lambda _: 1 / 0)

    assert ["not killed"] == caught.value.__notes__


def test_an_error_of_the_code_itself_is_raised():
    with pytest.raises(ZeroDivisionError):
        CrashPoints()(lambda _: 1 / 0)


def test_what_a_dead_man_raises_is_heard_by_nobody():
    def act(orch):
        try:
            (orch.root.parent / "a").mkdir()
        except BaseException as error:
            raise RuntimeError("it was not me") from error

    assert 2 == len(CrashPoints()(act))


def test_a_stubborn_agent_is_ended_after_each_death():
    with Scene() as scene:
        scene.terminal.default = Runs(ignores_term=True, daemon=True)

        assert CrashPoints(scene.terminal)(deploy, at_most=3)


@pytest.mark.parametrize(
    ("at_most", "kept"), [(None, [0, 1, 2, 3, 4]), (9, [0, 1, 2, 3, 4]), (3, [0, 2, 4]), (1, [0])]
)
def test_a_sample_is_evenly_spread(at_most, kept):
    points = [CrashPoint(number, "before", "write") for number in range(5)]

    assert kept == [point.number for point in evenly_spaced(points, at_most)]
