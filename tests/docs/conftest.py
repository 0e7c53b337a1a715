"""The examples of the documentation, run as a reader would run them: page by page, from the top."""

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
    """Tell whether *actual* is what a page shows: ``…`` is anything, a space any number of them."""
    expected, actual = (re.sub(" +", " ", text.strip()) for text in (expected, actual))
    pattern = ".*".join(map(re.escape, expected.split("…")))
    return re.fullmatch(pattern, actual, re.DOTALL) is not None


class Reader:
    """Somebody who types in what a page shows, and compares."""

    def __init__(self, place, env):
        self._namespace = {"__name__": "__example__"}
        self._said = ""
        self._shell = subprocess.Popen(
            ["/bin/sh"],
            cwd=place,
            env=os.environ | env,
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
                assert matches(block.text, self._said), f"{block.place} printed:\n{self._said}"

    def _run_python(self, block):
        code = compile("\n" * block.line + block.text, block.place, "exec")
        with contextlib.redirect_stdout(io.StringIO()) as said:
            exec(code, self._namespace)
        self._said = said.getvalue()

    def _run_console(self, block):
        for typed, expected in _commands(block.text):
            said, code = self._type(typed)
            assert code == 0, f"{block.place}: $ {typed}\nexit code {code}\n{said}"
            assert matches(expected, said), f"{block.place}: $ {typed}\nprinted:\n{said}"

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
            left.kill()  # What a page that failed has left in the background.
        self._shell.communicate()


def _commands(text):
    """Return what is typed after each ``$``, and what is shown below it."""
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
    monkeypatch.setenv("PYTHONPATH", str(TOP))
    monkeypatch.setenv("TMUX_TMPDIR", str(tmux))  # The default server is nobody's.
    monkeypatch.chdir(work)
    for name in [name for name in os.environ if name.startswith(("ORCHESTRATOR_", "CLAUDE_"))]:
        monkeypatch.delenv(name)
    return work


@pytest.fixture
def scenery(request, place):
    """What a page takes for granted beside an empty directory; and what its shell is told of it."""
    page = request.node.callspec.params["page"]
    make = _SCENERY.get(page.name)
    with contextlib.nullcontext({}) if make is None else make(place) as env:
        yield env


@contextlib.contextmanager
def an_old_workspace(place):
    """A project in which the old system has been at work: one agent lives, one is gone."""
    with a_legacy_scene() as scene:
        (place / "project").symlink_to(scene.legacy.project)
        _, task, _ = scene.running(tracked=False)
        scene.legacy.agent(task, "reviewer", status="reviewing")
        for path in scene.root.glob("root.json*"):
            path.unlink()  # Nobody has opened it with us yet.
        yield {"TMUX_TMPDIR": str(scene.legacy.tmux_tmpdir)}


@contextlib.contextmanager
def our_fixtures(_place):
    """An environment in which pytest finds our plugin, though we may not be installed."""
    yield {"PYTEST_PLUGINS": "orchestrator_core.pytest_plugin"}


_SCENERY = {"adopting.md": an_old_workspace, "testing.md": our_fixtures}


@pytest.fixture
def reader(place, scenery, killed):
    """Somebody to read a page; whatever the examples have left running is ended."""
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
