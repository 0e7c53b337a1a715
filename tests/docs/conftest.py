"""The examples of the documentation, run as a reader runs them: page by page, from the top."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import attrs
import psutil
import pytest
from support.legacy_system import a_legacy_scene

import orchestrator_core
from orchestrator_core import Orchestrator

TOP = Path(__file__).parents[2]

_BLOCK = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_DONE = "--example-done--"


@attrs.frozen
class Block:
    """One fenced block of a page."""

    page: Path
    line: int
    language: str
    marks: frozenset[str]
    text: str

    @property
    def place(self):
        return f"{self.page.name}:{self.line}"

    @property
    def is_run(self):
        return "runnable" in self.marks


def blocks_of(page):
    text = page.read_text()
    return [
        Block(
            page,
            text.count("\n", 0, found.start()) + 1,
            found[1],
            frozenset(found[2].split()),
            found[3],
        )
        for found in _BLOCK.finditer(text)
    ]


def matches(expected, actual):
    """Return whether *actual* matches a page: ``…`` is any text, a space any number of spaces."""
    expected, actual = (re.sub(" +", " ", text.strip()) for text in (expected, actual))
    pattern = ".*".join(map(re.escape, expected.split("…")))
    return re.fullmatch(pattern, actual, re.DOTALL) is not None


class Reader:
    """A shell and a Python that run a page's blocks and compare their output."""

    def __init__(self, place, env):
        self._namespace = {"__name__": "__example__"}
        self._output = ""
        self._shell = subprocess.Popen(
            ["/bin/sh"],
            cwd=place,
            env={k: v for k, v in os.environ.items() if k != "COLUMNS"} | env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def read(self, page):
        for block in blocks_of(page):
            if block.is_run:
                getattr(self, f"_run_{block.language}")(block)
            elif "output" in block.marks:
                assert matches(block.text, self._output), f"{block.place} printed:\n{self._output}"

    def _run_python(self, block):
        code = compile("\n" * block.line + block.text, block.place, "exec")
        with contextlib.redirect_stdout(io.StringIO()) as output:
            exec(code, self._namespace)
        self._output = output.getvalue()

    def _run_console(self, block):
        for typed, expected in _commands(block.text):
            output, code = self._type(typed)
            assert code == 0, f"{block.place}: $ {typed}\nexit code {code}\n{output}"
            assert matches(expected, output), f"{block.place}: $ {typed}\nprinted:\n{output}"

    def _type(self, command):
        self._shell.stdin.write(f"{command}\nprintf '\\n%s %s\\n' {_DONE} $?\n")
        self._shell.stdin.flush()
        lines = []
        for line in self._shell.stdout:
            if line.startswith(_DONE):
                return "".join(lines), int(line.split()[1])
            lines.append(line)
        raise AssertionError(f"the shell ended in: {command}")

    def close(self):
        for left in psutil.Process(self._shell.pid).children():
            left.kill()  # A failed page can leave a process in the background.
        self._shell.communicate()


def _commands(text):
    """Return each command after a ``$``, and the output below it."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        first, *rest = part.split("\n")
        more = [line[2:] for line in rest if line == ">" or line.startswith("> ")]
        yield "\n".join([first, *more]), "\n".join(rest[len(more) :])


@pytest.fixture
def place(short_tmp, monkeypatch):
    """An empty working directory, with `orchestrator-core` on the PATH."""
    programs, work, tmux = short_tmp / "bin", short_tmp / "work", short_tmp / "tmux"
    for directory in (programs, work, tmux):
        directory.mkdir()
    for name, call in (("python", ""), ("orchestrator-core", " -m orchestrator_core")):
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}"{call} "$@"\n')
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(Path(orchestrator_core.__file__).parents[1]))
    monkeypatch.setenv("TMUX_TMPDIR", str(tmux))  # The default server is a private one.
    monkeypatch.chdir(work)
    for name in [name for name in os.environ if name.startswith(("ORCHESTRATOR_", "CLAUDE_"))]:
        monkeypatch.delenv(name)
    return work


@pytest.fixture
def scenery(request, place):
    """Create what a page needs beside an empty directory; return the variables of its shell."""
    page = request.node.callspec.params["page"]
    make = _SCENERY.get(page.name)
    with contextlib.nullcontext({}) if make is None else make(place) as env:
        yield env


@contextlib.contextmanager
def legacy_workspace(place):
    """Create a project of the old system: one agent lives, one is gone."""
    with a_legacy_scene() as scene:
        (place / "project").symlink_to(scene.legacy.project)
        _, task, _ = scene.running(tracked=False)
        scene.legacy.agent(task, "reviewer", status="reviewing")
        for path in scene.root.glob("root.json*"):
            path.unlink()  # This library has not opened it yet.
        yield {"TMUX_TMPDIR": str(scene.legacy.tmux_tmpdir)}


@contextlib.contextmanager
def fixture_plugin(_place):
    """Return variables with which pytest finds the plugin of a package that is not installed."""
    yield {"PYTEST_PLUGINS": "orchestrator_core.pytest_plugin"}


_SCENERY = {"adopting.md": legacy_workspace, "testing.md": fixture_plugin}


@pytest.fixture
def reader(place, scenery, killed):
    """Run a page; end whatever its examples leave running."""
    one = Reader(place, scenery)
    yield one
    one.close()
    for found in place.rglob("root.json"):
        _end_all(found.parent, killed)


def _end_all(root, killed):
    orch = Orchestrator(root)
    for agent in orch.agents(status="active"):
        with contextlib.suppress(Exception):
            orch.terminate(agent.id)
    server = subprocess.run(
        [shutil.which("tmux"), "-N", "-S", str(root / "tmux.sock"), "display", "-p", "#{pid}"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    if server:
        killed(int(server))
