"""
Deployments, reports, exits, kills, crashes, reboots and recoveries in any order, on the fake.

The guarantees hold after every step: after a recovery each agent is wholly there or wholly
gone, an end stays as it was, no archive changes, and totals add up.
ORCHESTRATOR_TEST_PROFILE=long tries for minutes.
"""

import contextlib
import os
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule
from support.fakes import FakeScene, fast_place
from support.world import HELD

from orchestrator_core.exceptions import DeploymentError, InvalidInput, LimitReached
from orchestrator_core.model.limits import Limits

LONG = os.environ.get("ORCHESTRATOR_TEST_PROFILE") == "long"
MOST = 4
POINTS = st.integers(0, 70)
SCRIPTS = st.sampled_from(
    ["lives", "stubborn", "stray", "finishes", "fails", "dies-early", "refuses"]
)


class Lives(RuleBasedStateMachine):
    """One root, and what the world may do to it."""

    agents = Bundle("agents")

    def __init__(self):
        super().__init__()
        self.place = tempfile.TemporaryDirectory(prefix="oc-", dir=fast_place())
        self.scene = FakeScene(Path(self.place.name))
        self.task = self.orch.create_task("tried").id
        self.ends = {}  # agent id -> status, once a record has a final status
        self.archives = {}  # file -> content
        self.settled = True  # no crash since the last recovery

    @property
    def orch(self):
        return self.scene.orchestrator(limits=Limits(max_concurrent=MOST))

    def teardown(self):
        self.scene.fake.mend()
        self.scene.fake.resume()
        self._recover()
        for agent in self.orch.agents(status="active"):
            assert self.orch.terminate(agent.id).success
        assert [] == self.scene.world.leftovers()
        self.place.cleanup()

    def _active(self, agent):
        record = self.scene.world.records().get(agent)
        return record is not None and agent in self.scene.world.entries()

    def _session(self, agent):
        return f"agent_{agent}" in self.scene.world.sessions()

    # --- what may happen ---------------------------------------------------------------------

    @rule(target=agents, script=SCRIPTS, grace_s=st.sampled_from([0.0, 1.0]))
    def deploy(self, script, grace_s):
        living = len(self.scene.world.entries())
        try:
            agent = self.orch.deploy(self.task, self.scene.spec(script), grace_s=grace_s).id
        except LimitReached:
            assert living >= MOST
            return "none"
        except DeploymentError as error:
            expected = script in {"dies-early", "refuses"} and not error.leaked
            return "none" if expected else _unexpected(error)
        if self.settled:
            assert living < MOST
        return agent

    @rule(target=agents, parent=agents, script=SCRIPTS)
    def deploy_a_child(self, parent, script):
        if parent == "none" or parent not in self.scene.world.records():
            return "none"
        spec = self.scene.spec(script, parent=parent)
        try:
            return self.orch.deploy(self.task, spec).id
        except LimitReached:
            return "none"
        except InvalidInput:  # The agent has ended.
            assert parent in self.ends
            return "none"
        except DeploymentError as error:
            # The parent may end of itself while its child is being deployed.
            known = script == "refuses" or parent not in self.scene.world.entries()
            return "none" if known and not error.leaked else _unexpected(error)

    @rule(target=agents, key=st.sampled_from(["k1", "k2"]))
    def deploy_with_a_key(self, key):
        holders = [a for a, e in self.scene.world.entries().items() if e.get("key") == key]
        try:
            agent = self.orch.deploy(self.task, self.scene.spec(key=key)).id
        except LimitReached:
            return "none"
        held = [a for a, e in self.scene.world.entries().items() if e.get("key") == key]
        assert [agent] == held, (holders, held)
        return agent

    @rule(script=SCRIPTS, point=POINTS, when=st.sampled_from(["before", "after"]))
    def crash_in_a_deploy(self, script, point, when):
        def act():
            with contextlib.suppress(DeploymentError):
                self.orch.deploy(self.task, self.scene.spec(script), grace_s=1.0)

        self.settled &= not self.scene.until_death(act, point, when)

    @rule(agent=agents, status=st.sampled_from(["working", "blocked", "running"]))
    def report(self, agent, status):
        if agent == "none" or agent not in self.scene.world.records():
            return
        was_over = agent in self.ends
        receipt = self.orch.report_progress(agent, status, message="m")
        assert not (was_over and receipt.recorded)

    @rule(agent=consumes(agents), status=st.sampled_from(["completed", "failed"]))
    def report_the_end(self, agent, status):
        self._end(agent, lambda: self.orch.report_progress(agent, status).end)

    @rule(agent=agents)
    def report_the_end_from_inside(self, agent):
        if agent == "none" or not self._session(agent) or not self._active(agent):
            return
        try:
            inside = self.scene.fake.inside(f"agent_{agent}")
        except StopIteration:
            return
        with inside:
            self.orch.report_progress(agent, "completed")

    @rule(agent=agents)
    def terminate(self, agent):
        self._end(agent, lambda: self.orch.terminate(agent))

    def _end(self, agent, act):
        if agent == "none" or agent not in self.scene.world.records():
            return
        end = act()
        assert end.success or end.handed_over, end
        assert self.ends.get(agent) in (None, end.status)

    @rule(agent=agents, point=POINTS, when=st.sampled_from(["before", "after"]))
    def crash_in_an_end(self, agent, point, when):
        if agent != "none" and agent in self.scene.world.records():
            died = self.scene.until_death(lambda: self.orch.terminate(agent), point, when)
            self.settled &= not died

    @rule(agent=agents, code=st.sampled_from([0, 1]))
    def exit(self, agent, code):
        if agent != "none" and self._session(agent):
            self.scene.fake.exit(f"agent_{agent}", code)

    @rule(agent=agents)
    def kill_supervisor(self, agent):
        if agent != "none" and self._session(agent):
            self.scene.fake.kill_supervisor(f"agent_{agent}")
            self.settled = False

    @rule()
    def kill_server(self):
        self.scene.fake.kill_server()
        self.settled = False

    @rule()
    def reboot(self):
        self.scene.fake.reboot()
        self.settled = False

    @rule(seconds=st.sampled_from([0.05, 1.0, 10.0]))
    def pass_time(self, seconds):
        self.scene.fake.pass_time(seconds)

    @rule(point=POINTS)
    def crash_in_a_recovery(self, point):
        self.settled &= not self.scene.until_death(lambda: self.orch.recover(force=True), point)

    @rule()
    def recover(self):
        self._recover()
        assert [] == self.scene.world.torn()
        assert {} == self.orch.recover(force=True).unwound

    def _recover(self):
        self.scene.fake.pass_time(20)
        found = self.orch.recover(force=True)
        assert {} == found.failed
        assert () == found.stuck
        self.scene.fake.pass_time(20)
        self.settled = True

    # --- what always holds ---------------------------------------------------------------------

    @invariant()
    def registries_are_whole_and_add_up(self):
        world = self.scene.world
        assert world.totals()["active_agents"] == len(world.entries()) <= MOST
        assert all(one["status"] and one["tracked_files"] for one in world.records().values())

    @invariant()
    def an_end_stays_what_it_was(self):
        for agent, record in self.scene.world.records().items():
            if record["status"] in {"completed", "failed", "error", "terminated"}:
                assert record["status"] == self.ends.setdefault(agent, record["status"])
            else:
                assert agent not in self.ends

    @invariant()
    def no_archive_changes(self):
        for path in self.scene.root.glob("TASK-*/archive/*"):
            archived = self.archives.setdefault(path, path.read_bytes())
            assert archived == path.read_bytes()
        assert all(path.exists() for path in self.archives)

    @invariant()
    def an_agent_with_a_closed_journal_holds_nothing_else(self):
        for agent, holds in self.scene.world.holdings().items():
            kinds = [line["kind"] for line in self.scene.world.journal(agent)]
            if kinds and kinds[-1] == "close":
                assert not holds & (HELD - {"journal"}), (agent, holds)

    @invariant()
    def no_agent_outlives_its_parent(self):
        assert [] == self.scene.world.outlived()

    @invariant()
    def unwinders_had_no_trouble(self):
        assert [] == self.scene.fake.errors


def _unexpected(error):
    raise AssertionError("an error without a cause in the test") from error


TestLives = Lives.TestCase
TestLives.settings = settings(
    max_examples=2000 if LONG else 60,
    stateful_step_count=50 if LONG else 15,
    deadline=None,
    derandomize=not LONG,
    suppress_health_check=list(HealthCheck),
)
