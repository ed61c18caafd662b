"""All tests see eight CPU devices; a test that wants fewer takes the first ones of `jax.devices()`.

Many tests train the same small agents: a program is compiled by the first of them, and read from disk by the others, as
in the commands that tests start.
"""

import os

os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8".strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")

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
