"""The docs as a site: it builds without a warning, navigation has every page, and other hosts are asked for nothing."""

import html.parser
import importlib.util
import os
from pathlib import Path
import re
import subprocess
import sys

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").rglob("*.md"))
MISSING = [name for name in ("mkdocs", "material", "mkdocstrings_handlers") if not importlib.util.find_spec(name)]
MARKER = r"([-*+]|\d+\.) "
LOADING = {"script": "src", "img": "src", "iframe": "src", "source": "src", "object": "data", "link": "href"}
PLACES = ("canonical", "next", "prev", "alternate", "edit")  # A `link` of these is no file to load.


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    if MISSING:
        pytest.skip(f"wants pip install -e '.[docs]': {', '.join(MISSING)} is not installed")
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert built.returncode == 0, built.stderr
    assert "WARNING" not in built.stderr, built.stderr
    return folder


def navigation():
    """The pages of the navigation, in their order."""
    _, _, nav = (ROOT / "mkdocs.yml").read_text().partition("\nnav:\n")
    return re.findall(r"^ +- [^:\n]+: (\S+\.md)$", nav, re.M)


def test_every_page_is_in_the_navigation_once():
    pages = [str(page.relative_to(ROOT / "docs")) for page in PAGES]
    assert sorted(navigation()) == sorted([*pages, "clone/CONTRIBUTING.md"])
    assert navigation()[0] == "index.md"


def test_the_site_has_every_page(site):
    for page in (*navigation(), "clone/examples/a2c.md"):
        assert "<h1 id=" in (site / page).with_suffix(".html").read_text(), page


def test_the_interface_is_described(site):
    """Docstrings become tables of arguments, also of what a dataclass holds."""
    for page, names in {
        "api": ("podrl.api.running.run", "podrl.api.policy.Policy.act", "overrides"),
        "types": ("podrl.types.Trajectory", "bootstraps"),
        "agent_api": ("podrl.agents.parts.interface.Agent", "actor_params"),
        "ops": ("podrl.ops.vtrace.vtrace", "1802.01561"),
        "networks": ("podrl.networks.interface.Network",),
        "envs": ("podrl.envs.source.Source", "podrl.experience.remote.vector_env.RemoteVectorEnv"),
    }.items():
        text = (site / f"reference/{page}.html").read_text()
        for name in names:
            assert name in text, (page, name)
        assert "<table>" in text, page
        assert ":::" not in text, page


class Loaded(html.parser.HTMLParser):
    """Collects the addresses of what a page loads."""

    def __init__(self):
        super().__init__()
        self.addresses = []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        address = attrs.get(LOADING.get(tag, ""))
        if address and not (tag == "link" and attrs.get("rel") in PLACES):
            self.addresses.append(address)
        self.addresses += re.findall(r"url\(['\"]?([^'\")]+)", attrs.get("style") or "")


def is_elsewhere(address):
    return bool(re.match(r"(\w+:)?//", address))


def test_pages_load_nothing_from_other_hosts(site):
    for path in site.rglob("*.html"):
        page = Loaded()
        page.feed(path.read_text())
        assert path.match("study/report.html") or page.addresses, path
        assert not [each for each in page.addresses if is_elsewhere(each)], path
        assert 'class="mermaid"' not in path.read_text(), "The theme loads its program from another host."
    for path in (*site.rglob("*.css"), *site.rglob("*.svg")):
        named = re.findall(r"(?:url\(|@import\s+(?!url)|href=)['\"]?([^'\")\s]+)", path.read_text())
        assert not [each for each in named if is_elsewhere(each)], path


def test_pages_of_concepts_are_short():
    for page in (ROOT / "docs/concepts").glob("*.md"):
        assert len(page.read_text().splitlines()) <= 70, page


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda page: str(page.relative_to(ROOT)))
def test_lists_and_tables_are_those_of_both_markdowns(page):
    """GitHub's Markdown takes a list or a table without an empty line before it, and the site's does not."""
    inside, before = False, ""
    for number, line in enumerate(page.read_text().splitlines(), 1):
        where = f"{page.name}:{number}: {line}"
        assert not re.match(r" {1,3}```", line), f"{where} (four spaces within a list)"
        if line.lstrip().startswith("```"):
            inside = not inside
        if not inside and before.strip():
            assert not re.match(MARKER, line) or re.match(rf" |{MARKER}", before), f"{where} (an empty line before it)"
            assert not line.startswith("|") or before.startswith("|"), f"{where} (an empty line before it)"
        before = line
