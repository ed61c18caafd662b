"""What `import podrl` has, and what it does not import."""

import ast
import subprocess
import sys

import pytest

import podrl
from tests.processes import ROOT

HEAVY = ("jax", "numpy", "flax", "gymnasium", "absl", "ml_collections", "envpool", "orbax")


def test_importing_podrl_imports_nothing_slow():
    code = f"import podrl, sys; print([name for name in {HEAVY} if name in sys.modules], dir(podrl))"
    said = subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True, text=True).stdout
    assert said.startswith("[] ")
    assert all(repr(name) in said for name in podrl.__all__)


@pytest.mark.parametrize("name", podrl.__all__)
def test_every_name_is_there_and_documented(name):
    assert getattr(podrl, name).__doc__
    assert getattr(podrl, name) is getattr(podrl, name)


def test_type_checkers_know_the_same_names_in_the_same_places():
    """They read the imports under `if TYPE_CHECKING`, programs the table of places."""
    (block,) = [node for node in ast.parse((ROOT / "podrl/__init__.py").read_text()).body if isinstance(node, ast.If)]
    typed = {each.names[0].name: each.module for each in block.body}
    assert typed == podrl._PLACES
    assert sorted(typed) == sorted(podrl.__all__)
    assert (ROOT / "podrl/py.typed").exists()


def test_modules_are_found_and_other_names_are_missing():
    from podrl import train

    assert train.__name__ == "podrl.train"
    with pytest.raises(AttributeError, match="module 'podrl' has no attribute 'trains'"):
        podrl.trains  # noqa: B018
