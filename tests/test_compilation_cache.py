import os
import subprocess
import sys

import pytest

FOLDER = "from podrl.compilation_cache import use_compilation_cache; print(use_compilation_cache())"


def folder(**environment):
    unset = ("JAX_COMPILATION_CACHE_DIR", "XDG_CACHE_HOME")
    kept = {key: value for key, value in os.environ.items() if key not in unset}
    command = [sys.executable, "-c", FOLDER]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=kept | environment).stdout.strip()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"XDG_CACHE_HOME": "/caches"}, "/caches/podrl/compilation"),
        ({"HOME": "/home/me"}, "/home/me/.cache/podrl/compilation"),
        ({"JAX_COMPILATION_CACHE_DIR": "/mine"}, "/mine"),
    ],
)
def test_folder(environment, expected):
    assert folder(**environment) == expected
