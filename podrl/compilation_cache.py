"""Compiled programs kept on disk, so that the second run of a config starts in seconds."""

import os
from pathlib import Path

import jax

# JAX's own limit of a second leaves out all programs but the update, and they add up.
_MIN_COMPILE_S = 0.05


def use_compilation_cache() -> str:
    """Switches JAX's persistent compilation cache on, unless the user has set it up or off.

    `JAX_COMPILATION_CACHE_DIR` names another folder; `JAX_ENABLE_COMPILATION_CACHE=false` switches it off.

    Returns:
        The cache's folder, `podrl/compilation` in `XDG_CACHE_HOME` (`~/.cache`) by default.
    """
    if folder := jax.config.values["jax_compilation_cache_dir"]:
        return folder
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    folder = str(home / "podrl" / "compilation")
    jax.config.update("jax_compilation_cache_dir", folder)
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", _MIN_COMPILE_S)
    return folder
