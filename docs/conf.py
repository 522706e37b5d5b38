"""How Sphinx builds the site: `make docs`. Warnings are errors, and nothing is fetched, neither now nor by readers."""

import os
import re
from importlib.metadata import version as installed
from pathlib import Path

from sphinx.application import Sphinx

project = "ndpp-dense"
author = "The ndpp-dense authors"
release = version = installed("ndpp-dense")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.githubpages"]
exclude_patterns = ["_build"]

# Links between pages name their headings as GitHub does.
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
# A name in a docstring must be on the site; what is torch's, Python's or private is told in plain text.
nitpicky = True
nitpick_ignore_regex = [("py:.*", r"(?!ndpp_dense\.\w+$).*")]

smartquotes = False  # of options such as --resume it would make dashes
html_theme = "pydata_sphinx_theme"
html_title = "ndpp-dense"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_show_sphinx = False
html_theme_options = {
    "show_nav_level": 1,
    "navigation_depth": 3,
    "header_links_before_dropdown": 7,
    "show_toc_level": 2,
    "secondary_sidebar_items": ["page-toc"],
    "navbar_end": ["theme-switcher"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "pygments_light_style": "tango",
}
html_sidebars = {"index": []}
html_context = {"default_mode": "auto"}
copyright = "the ndpp-dense authors, Apache-2.0"

# Files outside this folder that have a page here. Links name the files, so that they work in a checkout too.
ROOT = Path(__file__).resolve().parents[1]
SHOWN = {
    "CHANGELOG.md": "docs/project/changelog.md",
    "CONTRIBUTING.md": "docs/project/contributing.md",
    "SECURITY.md": "docs/project/security_policy.md",
    "examples/README.md": "docs/project/examples.md",
    "model_zoo/README.md": "docs/project/model_zoo.md",
}


def setup(app: Sphinx) -> None:
    """Show these files on their pages, and lead links to them there."""
    app.connect("source-read", show_files)


def show_files(app: Sphinx, page: str, source: list[str]) -> None:
    """Take the text of a page that shows a file from the file; lead all links of a page to pages."""
    here = f"docs/{page}.md"
    written = next((file for file, shown in SHOWN.items() if shown == here), here)
    text = source[0] if written == here else (ROOT / written).read_text(encoding="utf-8")

    def led(link: re.Match[str]) -> str:
        target = os.path.normpath(os.path.join(os.path.dirname(written), link[1]))
        return f"]({os.path.relpath(SHOWN.get(target, target), os.path.dirname(here))}{link[2]})"

    source[0] = re.sub(r"\]\((?!\w+:|#)([^)#\s]+)(#[^)]*|)\)", led, text)
