"""The systemd unit and the launchd property list, with any characters in the paths."""

from __future__ import annotations

import configparser
import os
import plistlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator_core import Orchestrator
from orchestrator_core.exceptions import InvalidInput
from orchestrator_core.operations.daemon.service import Service
from orchestrator_core.system.import_path import isolated_command
from orchestrator_core.testing import FakeTerminal

HOSTILE = {
    "plain": "plain",
    "a space": "a space",
    "quotes": "q'uo\"te",
    "a backslash": "back\\slash\\n",
    "specifiers": "%h%%",
    "variables": "$HOME${PATH}$$",
    "a newline": "new\nExecStart=/bin/evil",
    "a tab": "a\ttab",
    "not ASCII": "ünï",
    "not text": os.fsdecode(b"by\xfftes"),
    "a comment": "; #",
}


def words(line):
    """Split a line of a unit as in systemd.syntax(7) and systemd.service(5), without specifiers."""
    found = re.findall(r'"((?:[^"\\]|\\.)*)"', line)
    assert " ".join(f'"{word}"' for word in found) == line, line
    return [_plain(word) for word in found]


def _plain(word):
    assert "%" not in word.replace("%%", ""), word
    data = re.sub(
        rb"\\(x[0-9a-f]{2}|.)",
        lambda m: bytes([int(m[1][1:], 16)]) if m[1].startswith(b"x") else m[1],
        os.fsencode(word.replace("%%", "%")),
    )
    return os.fsdecode(data)


def unit_of(service):
    parser = configparser.RawConfigParser(strict=False, comment_prefixes="#")
    parser.optionxform = str
    parser.read_string(service.systemd())
    return parser


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("where", ["root", "python"])
def test_a_unit_runs_this_interpreter_on_this_root(name, where):
    """No character of a path acts as a separator, quote, specifier, variable or newline."""
    root, python = Path("/srv/root"), "/usr/bin/python3"
    if where == "root":
        root = Path("/srv") / name
    else:
        python = f"/srv/{name}/python3"
    service = Service(root=root, root_id="0123abcd", python=python, env={"PATH": f"/x{name}"})

    unit = unit_of(service)

    command = unit["Service"]["ExecStart"]
    assert command.startswith(":"), "variables would be replaced"
    program, *arguments = words(command[1:])
    assert program.startswith("/")
    argv = isolated_command("--root", str(root), "sweep", "--watch", python=python)
    shell = ["/bin/sh", "-c", 'exec "$0" "$@"']
    assert [program, *arguments] in (argv, [*shell, *argv])
    assert [f"PATH=/x{name}"] == words(unit["Service"]["Environment"])
    assert "notify" == unit["Service"]["Type"]
    assert "always" == unit["Service"]["Restart"]


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_systemd_accepts_the_unit(tmp_path, name):
    """systemd-analyze verifies the unit, where it is installed."""
    place = tmp_path / name
    place.mkdir(parents=True)
    python = place / "python3"
    python.write_text("#!/bin/sh\n")
    python.chmod(0o755)
    unit = tmp_path / "tried.service"
    service = Service(root=place, root_id="0123abcd", python=str(python))
    unit.write_text(service.systemd())

    assert ["Unit", "Service", "Install"] == unit_of(service).sections()
    assert [] == complaints(unit)


def complaints(unit):
    """Return the complaints of systemd about a unit; none without systemd."""
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        return []
    verified = subprocess.run(
        [analyze, "verify", "--user", str(unit)],
        env={**os.environ, "XDG_RUNTIME_DIR": str(unit.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    # It also reports on the other units of this machine's users.
    return [line for line in verified.stderr.splitlines() if unit.name in line]


@pytest.mark.parametrize("name", [name for what, name in HOSTILE.items() if what != "not text"])
def test_a_property_list_runs_this_interpreter_on_this_root(name):
    service = Service(root=Path("/srv") / name, root_id="0123abcd", env={"PATH": name})

    document = plistlib.loads(service.launchd().encode())

    assert list(service.argv) == document["ProgramArguments"]
    assert [sys.executable, str(Path("/srv") / name)] == [service.argv[0], service.argv[-3]]
    assert {"PATH": name} == document["EnvironmentVariables"]
    assert (True, True) == (document["KeepAlive"], document["RunAtLoad"])


@pytest.mark.parametrize("name", ["bell\a", os.fsdecode(b"by\xfftes")])
def test_a_path_that_xml_cannot_represent_is_refused(name):
    with pytest.raises(InvalidInput, match="in a property list"):
        Service(root=Path("/srv") / name, root_id="0123abcd").launchd()


def test_a_service_imports_nothing_from_where_agents_may_write(monkeypatch, tmp_path):
    """Neither from ``PYTHONPATH`` nor from its working directory."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("ORCHESTRATOR_AGENT_ID", "a-1")
    for name in ("msgspec.py", "logging.py", "orchestrator_core.py"):
        (tmp_path / name).write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")

    Orchestrator(tmp_path / "root", terminal=FakeTerminal())
    service = Service(root=tmp_path / "root", root_id="0123abcd")
    argv = [word.replace("sweep", "ps").replace("--watch", "--all") for word in service.argv]
    subprocess.run(argv, cwd=tmp_path, env=service.env, check=True, capture_output=True)

    assert {"PYTHONPATH", "ORCHESTRATOR_AGENT_ID"}.isdisjoint(service.env)
    assert not (tmp_path / "ran").exists()


def test_two_roots_have_two_services():
    one, other = (Service(root=Path("/srv"), root_id=each) for each in ("0123abcd", "4567cdef"))

    assert one.name != other.name
    assert plistlib.loads(one.launchd().encode()) != plistlib.loads(other.launchd().encode())
