"""The text of the command line about a damaged root: true, and ready to paste."""

from __future__ import annotations

import json
import shlex

import pytest

from orchestrator_core.cli import main
from orchestrator_core.cli.printing import CommandResult, print_result
from orchestrator_core.cli.root_commands import format_repair
from orchestrator_core.cli.show import format_recovery
from orchestrator_core.operations.daemon.service import Service
from orchestrator_core.operations.doctor import root
from orchestrator_core.operations.doctor.check import Environment
from orchestrator_core.reconcile.repair import Difference, RegistryRepair, RepairReport
from orchestrator_core.saga import RecoveryReport, Unwind
from orchestrator_core.saga.report import UnwindReport


def test_a_stuck_saga_does_not_count_as_recovered():
    why = Unwind.terminal("enough", status="terminated")
    tries = {
        saga_id: UnwindReport(saga_id=saga_id, why=why, steps=(), closed=closed)
        for saga_id, closed in (("a-1", True), ("a-2", False))
    }
    result = format_recovery(RecoveryReport(unwound=tries, waiting=("a-3",)))
    assert "0 alive, 1 recovered, 2 STUCK" == result.text.splitlines()[-1]
    assert 3 == result.code


def test_a_readable_registry_with_differences_is_not_called_whole():
    wrong = RegistryRepair(
        registry="R",
        task_id=None,
        state="whole",
        differences=(Difference(kind="added", agent_id="a-1"),),
    )
    first = next(iter(format_repair(RepairReport(repairs=(wrong,), dry_run=True))))
    assert "R: it can be read, and is wrong" == first


def test_the_remedy_for_a_path_with_a_blank_can_be_pasted(short_tmp):
    place = short_tmp / "my root"
    place.mkdir(mode=0o700)
    (place / "a file").touch(mode=0o644)
    (place / "a file").chmod(0o644)
    answer = root.permissions(Environment(place, "test", "", {}, 1.0))
    assert ["chmod", "go-rwx", str(place / "a file")] == shlex.split(answer.remedy)


def test_a_service_unit_names_its_root(short_tmp):
    """The path identifies the root to people; systemd takes no "%" in it for a specifier."""
    unit = Service(root=short_tmp / "100% mine", root_id="0badcafe", env={}).systemd()
    assert f"Description=orchestrator-core: the resident sweeper of {short_tmp}/100%% mine" in unit


# --- characters that control a terminal -------------------------------------------------------

HOSTILE = "a\x1b[2J\x1b]0;owned\x07b\x9b31m\x7f\x85c\u202edrow\u2066\u200f\u2028\r\nfake-row"


@pytest.fixture
def hostile_root(fake_scene):
    """Return a root whose records, file names and journals have hostile texts everywhere."""
    orch = fake_scene.orchestrator()
    agent = orch.deploy(orch.create_task("a task").id, fake_scene.spec())
    orch.report_progress(agent.id, "working", message=HOSTILE)
    orch.terminate(agent.id, reason=HOSTILE)
    task = orch.root / agent.task_id
    registry = task / "AGENT_REGISTRY.json"
    document = json.loads(registry.read_text())
    for name in ("status", "end_reason", "started_at", "completed_at", "tmux_session", "parent"):
        document["agents"][0][name] = HOSTILE
    registry.write_text(json.dumps(document))
    (orch.root / "sagas" / "a-1.jsonl").write_text("damaged\n")
    (task / "logs" / HOSTILE.replace("/", "")).touch()
    (task / "AGENT_REGISTRY.json.damaged-\x1b[2J").touch()
    return orch.root, agent.id


@pytest.mark.parametrize("as_json", [[], ["--json"]])
@pytest.mark.parametrize(
    "command",
    [
        *(["ps", "--all"], ["show", "AGENT"], ["stats"], ["recover"], ["sweep"], ["doctor"]),
        *(["repair"], ["gc", "--dry-run"], ["health"], ["kill", "AGENT"], ["show", HOSTILE]),
    ],
    ids=" ".join,
)
def test_no_text_of_an_agent_controls_the_terminal(hostile_root, capsys, command, as_json):
    """Nor is a line added, in a table or elsewhere, that an agent wrote."""
    root, agent_id = hostile_root

    words = [agent_id if word == "AGENT" else word for word in command]
    main(["--root", str(root), *as_json, *words])

    written = "".join(capsys.readouterr())
    assert {"\n"} >= {char for char in written if not char.isprintable()}
    assert not [line for line in written.splitlines() if line.strip().startswith("fake-row")]
    assert written


def test_json_keeps_every_character(capsys):
    print_result(CommandResult({"text": HOSTILE + "è\U000e0041"}, ""), as_json=True)
    assert {"text": HOSTILE + "è\U000e0041"} == json.loads(capsys.readouterr().out)
