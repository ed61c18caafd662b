import os
import subprocess
import sys

import pytest

FOLDER = "from podrl.runtime.compilation_cache import use_compilation_cache; print(use_compilation_cache())"


def folder(**environment):
    unset = ("JAX_COMPILATION_CACHE_DIR", "XDG_CACHE_HOME")
    kept = {key: value for key, value in os.environ.items() if key not in unset}
    command = [sys.executable, "-c", FOLDER]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=kept | environment).stdout.strip()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"XDG_CACHE_HOME": "caches"}, "caches/podrl/compilation"),
        ({"HOME": "me"}, "me/.cache/podrl/compilation"),
        ({"JAX_COMPILATION_CACHE_DIR": "mine"}, "mine"),
    ],
)
def test_folder(environment, expected, tmp_path):
    found = folder(**{name: str(tmp_path / value) for name, value in environment.items()})
    assert found == str(tmp_path / expected)
