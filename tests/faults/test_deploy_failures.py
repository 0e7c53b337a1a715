"""
Each effect of a deployment and of an end is refused: once, or for ever from then on.

An act holds what it promises, or raises the library's error. What that error does not name
as leaked does not exist, without any recovery. When the cause is removed, a recovery brings
the rest to all or nothing.
"""

import errno
import fcntl
import math
import os

import pytest
from support.effects import Fails
from support.fakes import a_fake_scene
from support.trials import (
    begin,
    deploy,
    deploy_with_a_key,
    points_of,
    report_the_end,
    terminate,
    wrong_with,
)

from orchestrator_core.exceptions import DeploymentError, OrchestratorError
from orchestrator_core.model import ids
from orchestrator_core.model.records import Agent
from orchestrator_core.saga import Reason, journal
from orchestrator_core.saga.store import JournalStore
from orchestrator_core.system import durable

GROWS = ("open", "write", "pwrite", "mkdir", "mkfifo", "link")


def _tried(act):
    """Act; return the library's error, or None."""
    try:
        act()
    except OrchestratorError as error:
        return error
    return None


def _half(scene):
    """Return the agents that are half there, before any recovery."""
    return [odd for odd in scene.world.torn() if "holds" in odd]


@pytest.mark.parametrize("prepare", [deploy, deploy_with_a_key], ids=lambda a: a.__name__)
def test_a_deployment_with_one_refused_effect_is_all_or_nothing(prepare):
    """Any failed call of a deployment raises the library's error, which lists all that is left."""
    wrong = {}
    for number, _, name in points_of(prepare):
        with a_fake_scene() as scene:
            act = begin(scene, prepare)
            with Fails(scene.fake, number, errno.EIO):
                error = _tried(act)
            if not getattr(error, "leaked", ()) and (half := _half(scene)):
                wrong[f"{name} (number {number}), then {error!r}"] = half
            if odd := wrong_with(scene):
                wrong[f"{name} (number {number}), after recovery"] = odd
    assert {} == wrong


@pytest.mark.parametrize("prepare", [terminate, report_the_end], ids=lambda a: a.__name__)
def test_an_end_with_one_refused_effect_is_finished_by_the_next(prepare):
    """An error in any one call of an end leaves nothing behind for good."""
    wrong = {}
    for number, _, name in points_of(prepare):
        with a_fake_scene() as scene:
            act = begin(scene, prepare)
            with Fails(scene.fake, number, errno.EIO):
                _tried(act)
            if odd := wrong_with(scene):
                wrong[f"{name} (number {number})"] = odd
    assert {} == wrong


@pytest.mark.parametrize(
    "prepare", [deploy, terminate, report_the_end], ids=lambda act: act.__name__
)
def test_a_full_disk_leaks_nothing(prepare):
    """Whichever call first meets the full disk, no process, session or prompt is left."""
    wrong = {}
    for number, _, name in points_of(prepare):
        with a_fake_scene() as scene:
            act = begin(scene, prepare)
            with Fails(scene.fake, number, errno.ENOSPC, times=math.inf, only=GROWS):
                error = _tried(act)
            alive = scene.fake.alive() or scene.fake.sessions()
            if prepare is deploy and error is not None and not error.leaked and alive:
                wrong[f"{name} (number {number}), then {error!r}"] = alive
            if odd := wrong_with(scene):
                wrong[f"{name} (number {number}), after recovery"] = odd
    assert {} == wrong


def test_a_deployment_without_a_journal_takes_nothing():
    """The intents are the first thing written: without them there is nothing to undo."""
    with a_fake_scene() as scene:
        orch = scene.orchestrator()
        task = orch.create_task("tried").id
        orch.terminate(orch.deploy(task, scene.spec()).id)
        before = scene.world.snapshot()
        with Fails(scene.fake, 0, errno.ENOSPC, times=math.inf, only=GROWS):
            error = _tried(lambda: orch.deploy(task, scene.spec()))
        assert before == scene.world.snapshot()
    assert isinstance(error, DeploymentError)
    assert (True, {}, ()) == (error.cleanup_performed, error.resources_cleaned, tuple(error.leaked))
    assert error.hint


def test_a_commit_that_can_be_neither_synced_nor_taken_back_is_no_life(monkeypatch):
    """The caller has an error. The journal says "committed", and no agent was ever started."""
    commits = []

    def write(fd, data, *, offset):
        durable.write_all(fd, data, offset=offset)
        if b'"kind":"commit"' in bytes(data):
            commits.append(fd)

    def refused(call):
        def refuse(fd, *arguments):
            if fd in commits:
                raise OSError(errno.EIO, "the disk refuses")
            return call(fd, *arguments)

        return refuse

    with a_fake_scene() as scene:
        orch = scene.orchestrator()
        task = orch.create_task("tried").id
        with monkeypatch.context() as patch:
            patch.setattr(journal, "write_all", write)
            patch.setattr(journal, "fsync", refused(journal.fsync))
            patch.setattr(os, "ftruncate", refused(os.ftruncate))
            with pytest.raises(DeploymentError):
                orch.deploy(task, scene.spec())
        assert commits
        assert [] == orch.agents()
        before = scene.world.totals()

        report = orch.recover()

        [reason] = [unwound.why.reason for unwound in report.unwound.values()]
        assert Reason.RECOVERY is reason
        assert [] == orch.agents() + scene.world.leftovers() + scene.world.torn()
        assert before == scene.world.totals()


def test_an_interrupt_after_the_commit_leaves_no_agent(monkeypatch):
    """A Ctrl-C before the caller has the agent leaves no agent."""

    def interrupted(*_args, **_how):
        raise KeyboardInterrupt

    with a_fake_scene() as scene:
        orch = scene.orchestrator()
        task = orch.create_task("tried").id
        with monkeypatch.context() as patch:
            patch.setattr(Agent, "from_record", interrupted)
            with pytest.raises(KeyboardInterrupt):
                orch.deploy(task, scene.spec())
        assert [] == scene.world.leftovers() + scene.world.torn()
        assert ["terminated"] == [agent.status for agent in orch.agents()]


def test_a_resource_that_cannot_be_undone_is_named():
    """Every call is refused from some call on: the error names all that exists then."""
    names = {
        "session": "tmux_session",
        "process": "tmux_session",
        "prompt": "prompt_file",
        "log": "log_files",
        "deploy log": "log_files",
        "run": "log_files",
        "record": "task_registry",
        "entry": "global_registry",
    }
    wrong = {}
    for number, _, name in points_of(deploy):
        with a_fake_scene() as scene:
            act = begin(scene, deploy)
            with Fails(scene.fake, number, errno.EIO, times=math.inf):
                error = _tried(act)
            left = {
                names[what]
                for holds in scene.world.holdings().values()
                for what in holds & {*names}
            }
            reported = {leak.partition(":")[0] for leak in error.leaked}
            if not left <= reported:
                wrong[f"{name} (number {number}), then {error!r}"] = left - reported
            if odd := wrong_with(scene):
                wrong[f"{name} (number {number}), after recovery"] = odd
    assert {} == wrong


STEPS = [
    *("write_prompt", "tee_log", "spawn_tmux"),
    *("accept_children", "register_task", "register_global"),
]


class _Interrupt(KeyboardInterrupt):
    """A Ctrl-C."""


@pytest.mark.parametrize("error", [RuntimeError("a bug"), _Interrupt(), SystemExit(1)], ids=repr)
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", STEPS)
def test_a_deployment_leaves_nothing_whatever_a_step_raises(step, after, error):
    """At any step, before or after it took its resource, and with any exception."""
    with a_fake_scene() as scene:
        task = scene.orchestrator().create_task("tried")
        with _step_that(step, "do", error, after=after), pytest.raises(BaseException) as raised:  # noqa: PT011 - any
            scene.orchestrator().deploy(task.id, scene.spec())

        if isinstance(error, Exception):
            assert isinstance(raised.value, DeploymentError)
            assert () == raised.value.leaked
            assert error is raised.value.__cause__
        else:
            assert error is raised.value
        assert [] == scene.world.leftovers()
        assert [] == wrong_with(scene)


@pytest.mark.parametrize("step", STEPS)
def test_a_step_that_cannot_be_undone_stops_no_other_undo(step):
    """The rest is given back, the error names what is left, and the next recovery removes that."""
    with a_fake_scene() as scene:
        orch = scene.orchestrator()
        agent = orch.deploy(orch.create_task("tried").id, scene.spec())
        with _step_that(step, "undo", OSError(errno.EIO, "no"), after=False):
            end = orch.terminate(agent.id)

        assert not end.success
        failed = [one["step"] for one in end.steps if one["result"] == "failed"]
        assert [step] == failed
        assert "stuck" == orch.history(agent.id).state.value
        assert [] == wrong_with(scene)


def test_an_interrupt_during_an_end_is_raised_after_it():
    """Ctrl-C does not leave half an agent: all is given back, then it is raised."""
    with a_fake_scene() as scene:
        orch = scene.orchestrator()
        agent = orch.deploy(orch.create_task("tried").id, scene.spec())
        interrupted = _step_that("tee_log", "undo", _Interrupt(), after=True, times=1)
        with interrupted, pytest.raises(_Interrupt):
            orch.terminate(agent.id)

        assert [] == scene.world.leftovers()
        assert [] == wrong_with(scene)


def test_an_agent_that_cannot_be_ended_is_named_and_stays_visible():
    """A survivor never counts as gone; when it does exit, recovery closes its saga."""
    with a_fake_scene() as scene:
        orch = scene.orchestrator()
        agent = orch.deploy(orch.create_task("tried").id, scene.spec("unkillable"))

        end = orch.terminate(agent.id)
        assert (False, False) == (end.success, end.verified_no_zombies)
        [survivor] = [one for one in scene.fake.alive() if one.unkillable]
        assert (f"{survivor.pid} ({survivor.name})",) == end.survivors
        assert str(survivor.pid) in " ".join(end.errors)
        assert agent.id in orch.recover(force=True).stuck

        survivor.unkillable = False
        assert [] == wrong_with(scene)


class _step_that:  # noqa: N801 - reads as a clause
    """For some calls, a step's do or undo raises, before or after it does its work."""

    def __init__(self, name, method, error, *, after, times=math.inf):
        from orchestrator_core.deployment import steps  # noqa: PLC0415 - white-box, and only here

        self._kind = next(
            step for step in steps.STEPS if step.receipt_type.__name__ == _RECEIPTS[name]
        )
        self._method, self._error, self._after, self._times = method, error, after, times

    def __enter__(self):
        original = self._original = getattr(self._kind, self._method)

        def failing(*args):
            self._times -= 1
            if self._times < 0:
                return original(*args)
            if self._after:
                original(*args)
            raise self._error

        setattr(self._kind, self._method, failing)

    def __exit__(self, *_):
        setattr(self._kind, self._method, self._original)


_RECEIPTS = {
    "write_prompt": "PromptReceipt",
    "tee_log": "LogReceipt",
    "spawn_tmux": "SessionReceipt",
    "accept_children": "ChildrenReceipt",
    "register_task": "TaskReceipt",
    "register_global": "GlobalReceipt",
}


def test_a_resource_that_cannot_be_inspected_does_not_count_as_gone():
    """An unreachable directory is given back when it is reachable again."""
    with a_fake_scene() as scene:
        orch = scene.orchestrator()
        task = orch.create_task("tried").id
        agent = orch.deploy(task, scene.spec()).id
        directory = scene.root / task
        directory.rename(scene.root.with_name("away"))
        directory.symlink_to(directory)

        end = orch.terminate(agent)

        assert {"tee_log", "write_prompt"} <= {error.partition(":")[0] for error in end.errors}
        directory.unlink()
        scene.root.with_name("away").rename(directory)
        assert orch.recover(agent, force=True).stuck == ()
        assert [] == scene.world.leftovers() + scene.world.torn()


def test_an_end_is_reported_while_its_closed_journal_is_locked(monkeypatch):
    """The journal's owner was stopped after its last line."""
    with a_fake_scene() as scene:
        orch = scene.orchestrator(timeout_s=0.1)
        agent = orch.deploy(orch.create_task("tried").id, scene.spec()).id
        with monkeypatch.context() as patch:
            patch.setattr(JournalStore, "archive", lambda _, journal: journal.close())
            end = orch.terminate(agent, reason="first")
        with (scene.root / "sagas" / f"{agent}.jsonl").open() as journal:
            fcntl.flock(journal, fcntl.LOCK_EX)
            assert end == orch.terminate(agent, reason="second")
        assert "first" == end.reason


def test_an_id_that_was_used_before_is_not_drawn_again(monkeypatch):
    """There are 16 million ids for a type and a second: one day, two deployments draw the same."""
    drawn = iter(["a-1", "a-1", "a-2"])
    with a_fake_scene() as scene:
        orch = scene.orchestrator()
        task, spec = orch.create_task("tried").id, scene.spec()
        monkeypatch.setattr(ids, "new_agent_id", lambda _: next(drawn))

        assert ["a-1", "a-2"] == [orch.deploy(task, spec).id for _ in range(2)]
        assert ["a-1", "a-2"] == [agent.id for agent in orch.agents(status="active")]
