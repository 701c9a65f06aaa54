"""Settings of Sphinx. `make docs` builds the site into build/docs; no network is needed."""

from __future__ import annotations

import sys
from pathlib import Path

from sphinx.application import Sphinx

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS.parent))

import edgevit  # noqa: E402
from docs.generate.citations import filled  # noqa: E402
from docs.generate.links import with_project_links  # noqa: E402
from docs.generate.pages import write_pages  # noqa: E402

project = "edgevit"
copyright = "the edgevit authors"
release = version = edgevit.__version__
html_title = f"edgevit {release}"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "docs.generate.docstrings",
    "docs.generate.mathml",
]
source_suffix = {".md": "markdown"}
exclude_patterns = ["README.md", "generate"]
smartquotes_action = "D"  # dashes, which descriptions of parameters have; options stand in backticks

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
myst_fence_as_directive = ["math"]
html_math_renderer = "mathml"

default_role = "code"  # docstrings put code into single backticks, as Markdown does
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_type_aliases = {name: name for name in ("Floats", "Labels", "Head", "Arrays", "Json", "Outputs")}
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
python_maximum_signature_line_length = 88

html_theme = "furo"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False


def setup(app: Sphinx) -> None:
    """Write the generated pages before Sphinx looks for pages, and change what hand-written pages cite."""
    app.connect("builder-inited", lambda app: write_pages(DOCS))
    app.connect("source-read", _change)


def _change(app: Sphinx, page: str, source: list[str]) -> None:
    source[0] = with_project_links(filled(source[0]), (DOCS / page).parent)
