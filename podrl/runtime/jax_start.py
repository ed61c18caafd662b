"""Whether JAX has looked for devices already, after which flags of XLA have no effect."""

from collections.abc import Mapping

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


def tell_platforms(environ: Mapping[str, str]) -> None:
    """Tells JAX of a JAX_PLATFORMS that was set after JAX was imported, which is when JAX reads it.

    It has no effect once JAX has looked for devices, or where the program has chosen platforms itself.

    Args:
        environ: The process's environment variables.
    """
    platforms = environ.get("JAX_PLATFORMS")
    if platforms and not jax.config.values["jax_platforms"] and not jax_has_started():
        jax.config.update("jax_platforms", platforms)
