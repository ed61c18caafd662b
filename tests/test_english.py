"""Docstrings, comments, messages and docs use the field's plain words; see the table of words in CONTRIBUTING.md."""

import ast
from pathlib import Path
import re

import pytest

ROOT = Path(__file__).parent.parent
CODE = sorted(path for folder in ("podrl", "tools", "configs") for path in (ROOT / folder).rglob("*.py"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
RIDDLES = re.compile(
    r"\b([Nn]obody|[Ss]omebody|[Ww]hoever|[Ee]verybody|for good|but for|be had|in the place of|in vain"
    r"|(go|goes|going|gone|went) on with|gone on\b|from which to go on|wants? to be)\b"
)
STUMP = re.compile(r"^ +(\w+): (of|by|in|from|to|as|at|for|with|on|whose|that|which|what)\b[^:]*$")
ENTRIES = ("Args:", "Attributes:")


def docstrings(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield getattr(node, "name", path.stem), text


def entries(text):
    """The first lines of what a docstring says of arguments and attributes."""
    inside = False
    for line in text.splitlines():
        if line.strip().endswith(":") and not line.startswith(" "):
            inside = line.strip() in ENTRIES
        elif inside and re.match(r"^ {4}\w+: ", line):
            yield line


@pytest.mark.parametrize("path", [*CODE, *PAGES], ids=lambda path: str(path.relative_to(ROOT)))
def test_words_are_plain(path):
    found = [line.strip() for line in path.read_text().splitlines() if RIDDLES.search(line)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_docstrings_stand_alone(path):
    for name, text in docstrings(path):
        assert not re.match(r"(Of|Has|Starts empty|Nothing)\b", text) or name == "__init__", f"{name}: {text}"
        stumps = [line for line in entries(text) if STUMP.match(line)]
        assert not stumps, f"{name}: {stumps}"
