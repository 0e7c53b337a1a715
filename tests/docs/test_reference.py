"""The reference names every public name, field, journal line and variable."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest

import orchestrator_core
from orchestrator_core import AgentSpec, Orchestrator, saga
from orchestrator_core.model import environment as inside
from orchestrator_core.model import layout, limits
from orchestrator_core.saga import history
from orchestrator_core.testing import FakeTerminal

DOCS = Path(__file__).parents[2] / "docs"
REFERENCE = (DOCS / "reference.md").read_text()


def drawer():
    spec = importlib.util.spec_from_file_location("draw", DOCS / "draw.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def names_in(text):
    """Return the words of a page that are set as code."""
    return {word for code in re.findall(r"`([^`\n]+)`", text) for word in re.findall(r"\w+", code)}


def section(title):
    return REFERENCE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


@pytest.mark.parametrize("page", drawer().pages(), ids=lambda page: page.name)
def test_drawn_tables_are_as_the_code_has_them(page):

    assert drawer().drawn(page.read_text()) == page.read_text(), "run: python docs/draw.py"


@pytest.mark.parametrize("package", [orchestrator_core, saga], ids=lambda package: package.__name__)
def test_every_public_name_is_named(package):

    assert set() == set(package.__all__) - names_in(REFERENCE)


def test_every_field_of_a_record_is_named(short_tmp):

    fake = FakeTerminal()
    orch = Orchestrator(short_tmp / "ws", terminal=fake)
    task = orch.create_task("Write everything")
    agent = orch.deploy(task.id, AgentSpec(type="a", prompt="go", command=["true"]))
    entry = json.loads((orch.root / "registry" / "GLOBAL_REGISTRY.json").read_text())
    orch.report_progress(agent.id, "working", message="half", progress=50)
    orch.terminate(agent.id)
    ended = json.loads((orch.root / "registry" / "GLOBAL_REGISTRY.json").read_text())
    document = json.loads((orch.root / task.id / "AGENT_REGISTRY.json").read_text())

    [record] = document["agents"]
    written = {*entry, *ended, *document, *record, *record["tracked_files"]}
    written |= {*entry["agents"][agent.id], *entry["tasks"][task.id]}

    assert set() == written - names_in(section("Records")) - {"had_agents"}


def test_every_kind_of_journal_line_is_named():
    shown = set(re.findall(r"^\| `(\w+)` \|", section("Journal"), re.MULTILINE))
    methods = [name for name in vars(history.History) if name.startswith("_apply_")]
    assert {name.removeprefix("_apply_") for name in methods} == shown


def test_every_environment_variable_is_named():
    known = {*layout.ENVIRONMENT, *inside.RESERVED_ENV, *inside.HIDDEN_ENV}
    known |= {*limits.VARIABLES.values()}
    known.add("ORCHESTRATOR_CONTAINMENT")
    assert set() == known - names_in(section("Environment"))


def test_every_how_to_page_is_in_the_index():
    index = (DOCS / "how-to" / "README.md").read_text()
    pages = {page.name for page in (DOCS / "how-to").glob("*.md")} - {"README.md"}
    assert set() == pages - set(re.findall(r"\]\(([\w-]+\.md)\)", index))


def test_every_link_between_pages_leads_to_a_file_and_a_heading():
    top = DOCS.parent
    pages = [*top.glob("*.md"), *DOCS.rglob("*.md"), *top.glob("benchmarks/*.md")]
    links = [
        (page, target)
        for page in pages
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text())
        if not target.startswith("http")
    ]
    assert [] == [f"{page.name}: {target}" for page, target in links if not leads(page, target)]


def leads(page, target):
    """Return whether a link of a page leads to a file, and to a heading in it."""
    path, _, heading = target.partition("#")
    file = page.parent / path if path else page
    return file.exists() and (not heading or heading in headings(file.read_text()))


def headings(text):
    """Return the names by which a page's headings can be linked to."""
    found = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in found}
