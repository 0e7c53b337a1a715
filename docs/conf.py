"""The documentation site: `script/docs` builds it, and fails on any warning."""

from __future__ import annotations

import posixpath
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
TOP = HERE.parent
sys.path.insert(0, str(HERE))

import orchestrator_core  # noqa: E402 - the installed one

project = "orchestrator_core"
author = "the orchestrator_core authors"
release = orchestrator_core.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"orchestrator_core {release}"
html_show_copyright = False

myst_heading_anchors = 4
myst_links_external_new_tab = False

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False

REPOSITORY = "https://github.com/orchestrator-core/orchestrator-core"
html_theme_options = {
    "source_repository": REPOSITORY,
    "source_branch": "main",
    "source_directory": "docs/",
}


def _link_to_repository(_app, docname, source):
    """
    Point a link that leaves docs/ at the repository, and refuse one to a missing file.

    The pages are read in two places: in the repository, where a relative link works, and on
    the site, which holds only docs/.
    """
    import re  # noqa: PLC0415 - Sphinx pickles this module's globals

    def absolute(match):
        path = posixpath.normpath(posixpath.join(posixpath.dirname(docname), match["path"]))
        if not path.startswith("../"):
            return match[0]
        path = path.removeprefix("../")
        if not (TOP / path).exists():
            raise FileNotFoundError(f"docs/{docname}.md links to {path}, which does not exist")
        kind = "tree" if (TOP / path).is_dir() else "blob"
        return f"]({REPOSITORY}/{kind}/main/{path})"

    source[0] = re.sub(r"\]\((?P<path>\.\.?/[^)#\s]*)(?:#[^)]*)?\)", absolute, source[0])


def setup(app):
    """Connect what this page adds to Sphinx."""
    app.connect("source-read", _link_to_repository)
