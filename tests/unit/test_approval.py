"""Commands and modules count only from the user's own file, or once the user has approved them."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest

from orchestrator_core import Orchestrator
from orchestrator_core.exceptions import InvalidInput, StorageError
from orchestrator_core.mcp.agent_kind import kind_from
from orchestrator_core.model import approval, settings
from orchestrator_core.operations.alerts import Alerts
from orchestrator_core.saga import Unwind, UnwindReport
from orchestrator_core.testing import FakeTerminal

COMMANDS = """
[alerts]
command = ["touch", "/x"]
[mcp]
agent_command = ["rm", "-rf"]
[steps]
modules = ["evil"]
"""


@pytest.fixture(autouse=True)
def own(tmp_path, monkeypatch):
    """The user's own configuration directory, which does not exist yet."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config" / "orchestrator-core"


@pytest.fixture
def root(tmp_path):
    made = tmp_path / "root"
    made.mkdir()
    return made


def write(directory, text):
    directory.mkdir(parents=True, exist_ok=True)
    (directory / settings.NAME).write_text(text)


def names_nothing(found):
    return (found.alerts, found.mcp, found.steps) == (
        settings.AlertSettings(),
        settings.Mcp(),
        settings.Steps(),
    )


def test_what_a_roots_file_names_does_not_count_and_its_other_values_do(root):
    """An agent may have written the file."""
    write(root, COMMANDS + "[retention]\nfiles = 3\n")

    found = settings.read(root)

    assert names_nothing(found)
    assert 3 == found.retention.files
    assert {"alerts", "mcp", "steps"} == settings.unapproved(root).keys()


def test_an_approval_holds_for_exactly_these_values_in_exactly_this_root(root, tmp_path):
    write(root, COMMANDS)

    assert {"alerts", "mcp", "steps"} == settings.approve(root).keys()

    assert ("touch", "/x") == settings.read(root).alerts.command
    assert {} == settings.unapproved(root) == settings.approve(root)
    write(root, COMMANDS + "[retention]\nfiles = 3\n")
    assert ("evil",) == settings.read(root).steps.modules
    for other in ('command = ["touch", "/y"]', 'command = ["touch", "/x"]\ntimeout_s = 1'):
        write(root, COMMANDS.replace('command = ["touch", "/x"]', other))
        assert names_nothing(settings.read(root))
    write(tmp_path / "other", COMMANDS)
    assert names_nothing(settings.read(tmp_path / "other"))


def test_the_users_own_file_needs_no_approval_and_holds_for_every_root(root, own):
    write(own, COMMANDS)
    write(root, '[alerts]\ncommand = ["other"]\ntimeout_s = 0.001\n')

    found = settings.read(root)

    assert (("touch", "/x"), 10.0) == (found.alerts.command, found.alerts.timeout_s)
    assert ("evil",) == found.steps.modules
    settings.approve(root)
    assert ("other",) == settings.read(root).alerts.command
    assert ("evil",) == settings.read(root).steps.modules


def test_the_users_own_file_has_no_other_sections(root, own):
    write(own, "[retention]\ndays = 3\n")

    with pytest.raises(InvalidInput, match=r"\[retention\]"):
        settings.read(root)


def test_files_that_others_could_have_written_do_not_count(root, own):
    write(root, COMMANDS)
    settings.approve(root)
    [made] = (own / "approved").iterdir()
    made.chmod(0o622)

    assert names_nothing(settings.read(root))
    made.chmod(0o600)
    (own / "approved").chmod(0o770)
    assert names_nothing(settings.read(root))
    write(own, COMMANDS)
    (own / settings.NAME).chmod(0o620)
    with pytest.raises(StorageError, match="written by others"):
        settings.read(root)


def test_the_configuration_is_private_and_below_the_home_directory(root, tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    write(root, COMMANDS)

    settings.approve(root)

    made = tmp_path / "home" / ".config" / "orchestrator-core"
    [file] = (made / "approved").iterdir()
    assert [0o700, 0o700, 0o600] == [
        each.stat().st_mode & 0o777 for each in (made, made / "approved", file)
    ]
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")
    assert made == approval.user_directory()


def test_a_failed_cleanup_reports_that_its_command_is_not_approved(root, caplog, tmp_path):
    """It neither runs the command nor is silent."""
    orch = Orchestrator(root, terminal=FakeTerminal())
    write(root, f'[alerts]\ncommand = ["touch", "{tmp_path}/ran"]\n')
    report = UnwindReport("s", Unwind.terminal("over"), (), closed=False)

    with caplog.at_level(logging.ERROR):
        Alerts(orch._context).saga_stuck("s", report)

    [record] = [each for each in caplog.records if each.message == "alert.failed"]
    assert "is not approved" in record.error
    assert not (tmp_path / "ran").exists()


def test_a_server_names_the_command_that_approves(root):
    write(root, COMMANDS)

    with pytest.raises(InvalidInput) as caught:
        kind_from(settings.read(root).mcp).spec(kind="a", prompt="p", parent=None, cwd=None)

    assert "orchestrator-core approve" in caught.value.hint


def test_the_command_line_shows_what_it_would_approve_and_approves_on_request(root):
    write(root, '[alerts]\ncommand = ["touch", "/x\\u001b[2J"]\n')

    shown = approve(root)
    done = approve(root, "--yes")
    again = approve(root)

    assert (3, 0, 0) == (shown.returncode, done.returncode, again.returncode)
    assert '[alerts]\ncommand = ["touch","/x' in shown.stdout
    assert "\x1b" not in shown.stdout
    assert "--yes" in shown.stdout
    assert "nothing to approve" in again.stdout
    assert settings.read(root).alerts.command


def approve(root, *arguments):
    command = [sys.executable, "-m", "orchestrator_core", "--root", str(root), "approve"]
    return subprocess.run(
        [*command, *arguments], capture_output=True, text=True, timeout=60, check=False
    )
