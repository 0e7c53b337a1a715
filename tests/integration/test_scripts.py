"""The scripts a newcomer runs first, and their errors for what is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
SCRIPTS = ["script/test", "script/demo", "script/lib.sh"]


@pytest.fixture
def machine(tmp_path):
    """A machine with a shell, the smallest tools, and nothing else."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("sh", "id", "cat", "cksum", "dirname", "pwd", "mkdir", "rm"):
        provide(programs, name)
    return programs


def provide(machine, name):
    """
    Copy a program of this machine.

    A symlink would do for running it, but a test that replaces the program would write through
    the link: as root, into the machine's own.
    """
    shutil.copy2(shutil.which(name), machine / name)


def run(machine, script):
    return subprocess.run(
        ["sh", "-c", f". script/lib.sh; {script}"],
        cwd=TOP,
        env={"PATH": str(machine)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def install(machine, name, text):
    (machine / name).unlink(missing_ok=True)
    (machine / name).write_text(f"#!/bin/sh\n{text}\n")
    (machine / name).chmod(0o755)


@pytest.mark.parametrize("shell", ["sh", "dash", "bash"])
@pytest.mark.parametrize("script", SCRIPTS)
def test_every_shell_can_read_them(script, shell):
    if shutil.which(shell) is None:
        shell = "sh"
    subprocess.run([shell, "-n", script], cwd=TOP, check=True)


@pytest.mark.parametrize("script", ["script/test", "script/demo", ".ci/run"])
def test_they_can_be_run(script):
    assert os.access(TOP / script, os.X_OK)


def test_an_old_python_is_an_error_of_one_line_with_the_remedy(machine):
    install(machine, "python3", "exit 1  # an old one")

    ran = run(machine, "find_python")

    assert (1, "") == (ran.returncode, ran.stdout)
    assert 1 == len(ran.stderr.splitlines())
    assert "Python 3.11" in ran.stderr


def test_the_newest_python_is_found_where_the_usual_one_is_old(machine):
    install(machine, "python3", "exit 1  # an old one")
    install(machine, "python3.12", "exit 0  # a new one")

    assert "python3.12\n" == run(machine, "find_python").stdout


def test_the_error_for_a_missing_tmux_names_the_command_that_installs_it(machine):
    ran = run(machine, "see_to_tmux")

    assert 1 == ran.returncode
    assert "apt-get install tmux" in ran.stderr


def test_tmux_is_installed_where_that_needs_no_password(machine):
    """Root, or a sudo that asks nothing, has the package manager bring it."""
    install(machine, "id", "echo 1000")
    install(machine, "sudo", 'shift; exec "$@"')
    provide(machine, "chmod")
    install(machine, "apt-get", f'echo "$@" >&2; : >{machine}/tmux; chmod 755 {machine}/tmux')

    ran = run(machine, "see_to_tmux && echo fine")

    assert (0, "fine\n") == (ran.returncode, ran.stdout)
    assert "install -y -q tmux" in ran.stderr


def test_replacing_a_program_leaves_the_one_of_this_machine_alone(machine):
    original = Path(shutil.which("id")).read_bytes()

    install(machine, "id", "echo 1000")

    assert original == Path(shutil.which("id")).read_bytes()
    assert [] == [path for path in machine.iterdir() if path.is_symlink()]


def test_with_tmux_nothing_is_installed(machine):
    install(machine, "tmux", "")

    ran = run(machine, "see_to_tmux")

    assert (0, "", "") == (ran.returncode, ran.stdout, ran.stderr)
