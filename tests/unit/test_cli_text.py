"""The text of the command line about a damaged root: true, and ready to paste."""

from __future__ import annotations

import shlex

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
