"""A hook of MkDocs: what pages link to, as GitHub shows it, is a link of the site.

Pages may link to files outside of docs/, of which the site gets copies in `clone/`. A link whose text is the name of a
page, such as `[lag.md](lag.md)`, gets the title of that page.
"""

import os
from pathlib import Path
import re

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
OUTSIDE = ("CONTRIBUTING.md", *(f"examples/{path.name}" for path in sorted((ROOT / "examples").glob("*.py"))))
_LINK = re.compile(r"\[([^\]\n]*)\]\((?!https?:|#)([^)#\s]+)")
_NAME = re.compile(r"[\w/]+\.md")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the files of the clone that pages link to; code becomes a page of its own."""
    for name in OUTSIDE:
        text = (ROOT / name).read_text()
        if name.endswith(".py"):
            text = f"# {name}\n\n```python\n{text}```\n"
        files.append(File.generated(config, _site_name(name), content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turns links that lead out of docs/, or begin outside of it, into links within the site, and names into titles."""
    here = next((name for name in OUTSIDE if _site_name(name) == page.file.src_uri), f"docs/{page.file.src_uri}")
    if here.endswith(".py"):
        return markdown

    def rewrite(match: re.Match[str]) -> str:
        text, link = match.groups()
        target = os.path.normpath(os.path.join(os.path.dirname(here), link))
        if _NAME.fullmatch(text) and (ROOT / target).exists():
            text = (ROOT / target).read_text().partition("\n")[0].lstrip("# ")
        if target in OUTSIDE or not here.startswith("docs/"):
            place = _site_name(target) if target in OUTSIDE else os.path.relpath(target, "docs")
            link = os.path.relpath(place, os.path.dirname(page.file.src_uri))
        return f"[{text}]({link}"

    return _LINK.sub(rewrite, markdown)


def _site_name(name: str) -> str:
    """Returns where the site has a file of the clone: `clone/` keeps its names apart from those of docs/."""
    return f"clone/{name}" if name.endswith(".md") else f"clone/{name.removesuffix('.py')}.md"
