"""Every example of the documentation prints what its page shows."""

from __future__ import annotations

from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
PAGES = [TOP / "README.md", *sorted((TOP / "docs").rglob("*.md"))]


@pytest.mark.tmux
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(TOP)))
def test_the_examples_of_a_page_run_one_after_another_and_print_what_it_shows(page, reader):
    reader.read(page)
