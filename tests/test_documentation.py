"""What the docs show works as it stands there, and what they name and link to is there."""

import pkgutil
import re
import shlex

import pytest

from tests.processes import ROOT, launch, read_rows

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
OWN_ENV = (ROOT / "docs/howto/own_environment.md").read_text()
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def test_the_environment_of_your_own_trains(tmp_path):
    (program,) = re.findall(r"```python\n(.*?)```", OWN_ENV, re.S)
    (command,) = re.findall(r"^python tools/tpu_launch.py (.*my_env:.*)$", OWN_ENV, re.M)
    (tmp_path / "my_env.py").write_text(program)
    arguments = [word.replace("configs/", f"{ROOT}/configs/") for word in shlex.split(command)]
    result = launch(*arguments, "--smoke", "--workdir", "run", cwd=tmp_path)

    assert result.returncode == 0, result.stderr
    assert read_rows(tmp_path / "run")[-1]["learner_steps"] == 6

    (mistake,) = re.findall(r"^(podrl: error: .*my_env.*)$", OWN_ENV, re.M)
    misspelt = [word.replace("options.outside", "options.outsid") for word in arguments]
    assert launch(*misspelt, "--smoke", cwd=tmp_path).stderr.strip() == mistake


@each_page
def test_links_lead_to_files_and_headings_that_are_there(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if link.startswith("http"):
            continue
        name, _, heading = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not heading or heading in anchors(target), link


def anchors(page):
    """Its headings as GitHub links to them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_page
def test_files_and_names_of_podrl_are_there(page):
    text = page.read_text()
    for path in re.findall(r"\b((?:podrl|tests|tools|configs)/[\w/]+(?:\.py|/))(?!\w)", text):
        assert (ROOT / path).exists() or "NAME" in path, path
    for name in re.findall(r"\bpodrl(?:\.\w+)+\b", text):
        pkgutil.resolve_name(name)


def test_every_page_is_linked_from_another():
    linked = {
        (page.parent / link.partition("#")[0]).resolve()
        for page in PAGES
        for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text())
    }
    assert not [page.name for page in PAGES[1:] if page not in linked]
