"""The documentation site: `make docs`. It shows the repository's own Markdown files, in their places and unchanged."""

from pathlib import Path

from sphinx.application import Sphinx

import purifyctl

ROOT = Path(__file__).parents[1]

project = "purifyctl"
author = "the purifyctl authors"
release = version = purifyctl.__version__

extensions = ["myst_parser"]
include_patterns = [
    "README.md",
    "CHANGELOG.md",
    "SECURITY.md",
    "THIRD_PARTY_NOTICES.md",
    "docs/*.md",
    "docs/adr/*.md",
    "docs/notebook/*.md",
    "train/README.md",
    "engines/README.md",
    "purifyctl/data/*.md",
]
exclude_patterns = [".*", "*/.*", "site", "runs", "demo", "dist", "requirements", "tests", "docs/images"]
root_doc = "README"
nitpicky = True
highlight_language = "none"  # for code blocks that name no language, such as listings of files
myst_heading_anchors = 4  # links to headings, as code hosts make them

html_theme = "furo"
html_title = "purifyctl"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_additional_pages = {"index": "index.html"}
templates_path = ["templates"]
html_show_sphinx = False
html_copy_source = False

# Pages that are read first come first. Pages of docs/ that are not named here come at the end of "Using it".
NAVIGATION = {
    "Beginning": ["docs/install", "docs/tutorial", "docs/threat-model"],
    "Using it": [
        "docs/running",
        "docs/gate",
        "docs/attacks",
        "docs/gpu",
        "docs/engines",
        "docs/clusters",
        "docs/python",
        "docs/reference",
    ],
    "Making purifiers": [
        "docs/fit",
        "docs/training",
        "train/README",
        "docs/reproduce",
        "purifyctl/data/purifier",
        "purifyctl/data/gate",
        "docs/notebook/README",
    ],
    "How it is built": [
        "docs/architecture",
        "docs/glossary",
        "docs/extending",
        "docs/adr/README",
        "docs/benchmarks",
        "docs/scaling",
        "engines/README",
        "CHANGELOG",
        "SECURITY",
        "THIRD_PARTY_NOTICES",
    ],
}


def add_navigation(_app: Sphinx, docname: str, source: list[str]) -> None:
    """Give the first page, the decisions and the notebook their tables of contents, which code hosts do not show."""
    if docname == "docs/adr/README":
        source[0] += _contents("Decisions", sorted(f"docs/adr/{file.stem}" for file in ROOT.glob("docs/adr/0*.md")))
    if docname == "docs/notebook/README":
        pages = {file.stem for file in ROOT.glob("docs/notebook/*.md")} - {"README"}
        source[0] += _contents("Notebook", [f"docs/notebook/{page}" for page in sorted(pages)])
    if docname == "README":
        there = {f"docs/{file.stem}" for file in ROOT.glob("docs/*.md")}
        named = {page for pages in NAVIGATION.values() for page in pages}
        for heading, pages in NAVIGATION.items():
            pages = [page for page in pages if (ROOT / f"{page}.md").exists()]
            source[0] += _contents(heading, pages + (sorted(there - named) if heading == "Using it" else []))


def _contents(caption: str, pages: list[str]) -> str:
    lines = ["", "```{toctree}", ":hidden:", f":caption: {caption}", "", *(f"/{page}" for page in pages), "```", ""]
    return "\n".join(lines)


def setup(app: Sphinx) -> None:
    app.connect("source-read", add_navigation)
