"""The site: `sphinx-build -W -c docs . site`. Its sources are the repository's pages where they lie.

So links between pages and to pictures are the same here and in the repository. A link to a Python file becomes one to
its module in the API reference, whose pages are written to docs/api/ at every build.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from sphinx.application import Sphinx

from matrpo.version import __version__

ROOT = Path(__file__).parent.parent
API = ROOT / "docs" / "api"
PACKAGES = ("topology", "matrpo", "launch", "experiments")
"""The folders whose modules the API reference has."""

project = "matrpo"
release = __version__
root_doc = "docs/index"
include_patterns = ["docs/**.md", "docs/api/**.rst", "*.md", "experiments/*.md"]
exclude_patterns = ["README.md"]
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
myst_heading_anchors = 3
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "signature"
napoleon_use_ivar = True
suppress_warnings = ["ref.python"]  # a name in an annotation that several classes have
python_use_unqualified_type_names = True
html_theme = "furo"
html_title = "matrpo"
html_copy_source = False
html_show_copyright = False
html_extra_path = ["site_root"]  # index.html, which leads to the pages


def setup(app: Sphinx) -> None:
    """Write the API reference before a build, and mend links while pages are read."""
    app.connect("builder-inited", lambda _: write_api())
    app.connect("source-read", link_modules)


def write_api() -> None:
    """A page for each module, and one that lists them by room, with what each room says of itself."""
    API.mkdir(exist_ok=True)
    contents = ["API reference", "=" * 13, ""]
    for package in PACKAGES:
        for init in sorted((ROOT / package).rglob("__init__.py")):
            name = module(init).removesuffix(".__init__")
            contents += [name, "-" * len(name), "", f".. automodule:: {name}", "   :no-index:", "   :no-members:", ""]
            contents += [".. toctree::", "   :maxdepth: 1", "", *_write_pages(init.parent), ""]
    _write(API / "index.rst", "\n".join(contents))
    for page in API.glob("matrpo*.rst"):
        if f"   {page.stem}" not in contents:  # of a module that has been moved since
            page.unlink()


def _write_pages(room: Path) -> list[str]:
    """Write the pages of a room's modules; their entries in the list."""
    entries = []
    for file in sorted(room.glob("*.py")):
        if file.stem != "__init__":
            name = module(file)
            _write(API / f"{name}.rst", f"{name}\n{'=' * len(name)}\n\n.. automodule:: {name}\n")
            entries.append(f"   {name}")
    return entries


def link_modules(app: Sphinx, page: str, content: list[str]) -> None:  # noqa: ARG001
    """Turn links to Python files of the repository into links to the API reference."""

    def linked(link: re.Match[str]) -> str:
        path = ROOT / posixpath.normpath(posixpath.join(posixpath.dirname(page), link[2]))
        return f"{{py:mod}}`{link[1]} <{module(path)}>`"

    content[0] = re.sub(r"\[`?([^\]`]*)`?\]\(([^):#]+\.py)\)", linked, content[0])


def module(file: Path) -> str:
    """The dotted name that a Python file of the repository is imported by."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts if parts[0] == "matrpo" else ("matrpo", *parts))


def _write(file: Path, text: str) -> None:
    """Write a page if it has changed: an unchanged one is not built again."""
    if not file.exists() or file.read_text() != text:
        file.write_text(text)
