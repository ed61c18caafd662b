"""All tests see eight CPU devices; a test that wants fewer takes the first ones of `jax.devices()`.

Many tests train the same small agents: a program is compiled by the first of them, and read from disk by the others, as
in the commands that tests start. Each of xdist's workers has a cache of its own.
"""

import os
from pathlib import Path

os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8".strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")
if worker := os.environ.get("PYTEST_XDIST_WORKER"):  # JAX reads what another process has half written, and says so.
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    os.environ["XDG_CACHE_HOME"] = str(caches / "podrl" / worker)

import pytest

from podrl.compilation_cache import use_compilation_cache  # Imports JAX, which reads the above.

use_compilation_cache()


@pytest.fixture(autouse=True)
def what_a_tool_tells_xla_ends_with_the_test():
    """Tools that a test runs in this process say it in the environment, after XLA has read it."""
    before = {name: os.environ.get(name) for name in ("XLA_FLAGS", "NPROC")}
    yield
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
