"""The house stays in order: names are unique, modules and functions are short, the top is small."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import orchestrator_core

PACKAGE = Path(orchestrator_core.__file__).parent
MODULES = {path.relative_to(PACKAGE): ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py")}
FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)


def places_of(names):
    """Return {name: where it stands} for each name that stands in more than one place."""
    places = defaultdict(list)
    for name, place in names:
        places[name].append(str(place))
    return {name: found for name, found in places.items() if len(found) > 1}


def test_no_class_name_occurs_twice():
    names = [
        (node.name, path)
        for path, module in MODULES.items()
        for node in module.body
        if isinstance(node, ast.ClassDef)
    ]

    assert {} == places_of(names)


def test_no_file_name_occurs_twice_outside_the_packages_own():
    names = [(path.name, path) for path in MODULES if path.name != "__init__.py"]

    assert {} == places_of(names)


def test_a_module_holds_one_idea_in_at_most_450_lines():
    lines = {str(path): len((PACKAGE / path).read_text().splitlines()) for path in MODULES}

    assert {} == {path: count for path, count in lines.items() if count > 450}


def test_no_function_is_longer_than_60_lines():
    lengths = {
        f"{path}:{node.name}": node.end_lineno - node.lineno + 1
        for path, module in MODULES.items()
        for node in ast.walk(module)
        if isinstance(node, FUNCTION)
    }

    assert {} == {name: length for name, length in lengths.items() if length > 60}


def test_the_top_level_has_at_most_21_names():
    top = {path.parts[0].removesuffix(".py") for path in MODULES}

    assert 21 >= len(top), sorted(top)
