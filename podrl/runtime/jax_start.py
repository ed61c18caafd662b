"""Whether JAX has looked for devices already, after which flags of XLA have no effect."""

import jax

_KEY = "jax_num_cpu_devices"  # JAX refuses to change it from then on.


def jax_has_started() -> bool:
    """Returns whether JAX has looked for devices in this process."""
    before: int = getattr(jax.config, _KEY)
    try:
        jax.config.update(_KEY, max(before, 0) + 1)
    except RuntimeError:
        return True
    jax.config.update(_KEY, before)
    return False
