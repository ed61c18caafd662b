"""All tests see eight CPU devices; a test that wants fewer takes the first ones of `jax.devices()`.

Many tests train the same small agents: a program is compiled by the first of them, and read from disk by the others, as
in the commands that tests start.
"""

import os

os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8".strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from podrl.compilation_cache import use_compilation_cache  # Imports JAX, which reads the above.

use_compilation_cache()
