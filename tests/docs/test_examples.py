"""Every example of the documentation does what the page says that it does."""

from __future__ import annotations

from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
PAGES = [TOP / "README.md", *sorted((TOP / "docs").rglob("*.md"))]


@pytest.mark.tmux
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(TOP)))
def test_a_page_read_from_the_top_runs(page, reader):
    """Whoever types in a page's examples, one after another, sees what the page shows."""
    reader.read(page)
