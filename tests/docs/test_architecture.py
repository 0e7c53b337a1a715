"""The architecture page names files and functions that exist, and stays within three screens."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import orchestrator_core

TOP = Path(__file__).parents[2]
PACKAGE = Path(orchestrator_core.__file__).parent
PAGE = (TOP / "docs" / "architecture.md").read_text()
WRITTEN = re.sub(r"<!-- drawn: \w+ -->.*?<!-- end -->", "", PAGE, flags=re.DOTALL)

#: A file, and the names that stand behind it until the next file.
_FILE = re.compile(r"`((?:[a-z_]+/)*[a-z_]+\.(?:py|toml|json))`")
_NAME = re.compile(r"`([A-Za-z_][\w.]*)`")


def mentions():
    """Return (file, name) for each name on the page, and (file, None) for a file without one."""
    found = []
    for paragraph in re.split(r"\n\n|\n(?=\|)", WRITTEN):
        parts = _FILE.split(paragraph)
        for file, text in zip(parts[1::2], parts[2::2], strict=True):
            names = [name for name in _NAME.findall(text) if name[0].isupper() or "_" in name]
            found += [(file, name) for name in names] or [(file, None)]
    return found


def defined_in(module):
    """Return the names that a module defines, those of its classes' members among them."""
    names = set()
    for node in ast.parse(module.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{each.name}" for each in node.body if hasattr(each, "name")}
        targets = getattr(node, "targets", [getattr(node, "target", None)])
        names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


ALL_NAMES = {name for path in PACKAGE.rglob("*.py") for name in defined_in(path)}


@pytest.mark.parametrize("file", sorted({file for file, _ in mentions()}))
def test_a_file_on_the_page_exists(file):
    assert (PACKAGE / file).is_file() or (TOP / file).is_file() or file == "root.json"


@pytest.mark.parametrize(("file", "name"), [pair for pair in mentions() if pair[1]])
def test_a_name_on_the_page_is_defined(file, name):
    """In the file before it, or, mentioned again further on, somewhere in the package."""
    path = PACKAGE / file
    here = defined_in(path) if path.is_file() else set()

    assert name in here | ALL_NAMES


def test_the_first_name_behind_a_file_is_defined_in_that_file():
    pairs = re.findall(r"`((?:[a-z_]+/)*[a-z_]+\.py)`:\s+`([\w.]+)`", WRITTEN)

    assert len(pairs) > 20
    assert [] == [(file, name) for file, name in pairs if name not in defined_in(PACKAGE / file)]


def test_every_room_has_a_place_on_the_page():
    rooms = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}

    assert set() == {room for room in rooms if f"`{room}`" not in PAGE}


def test_the_page_is_at_most_three_screens_of_fifty_lines():
    assert len(PAGE.splitlines()) <= 150
