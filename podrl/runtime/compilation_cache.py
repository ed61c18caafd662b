"""Keeps compiled programs on disk, so that the second run of a config starts in seconds."""

import os
from pathlib import Path

from absl import logging
import jax

# JAX's default, one second, leaves out all programs except the update, and their compilation adds up.
_MIN_COMPILE_S = 0.05


def use_compilation_cache() -> str:
    """Switches on JAX's persistent compilation cache, unless the user has configured it or switched it off.

    `JAX_COMPILATION_CACHE_DIR` names another folder; `JAX_ENABLE_COMPILATION_CACHE=false` switches it off.

    Returns:
        The cache's folder, by default `podrl/compilation` in `XDG_CACHE_HOME` (`~/.cache`); empty if the cache is off,
        or if this user has no home folder or cannot write there.
    """
    if folder := jax.config.values["jax_compilation_cache_dir"]:
        return folder
    if not jax.config.values["jax_enable_compilation_cache"]:
        return ""
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
        folder = str(home / "podrl" / "compilation")
        obstacle = _find_obstacle(folder)
    except RuntimeError:
        obstacle = "this user has no home folder"
    if obstacle:
        logging.warning(
            "Compiled programs are not kept for the next run: %s. JAX_COMPILATION_CACHE_DIR=FOLDER keeps them in "
            "another folder; JAX_ENABLE_COMPILATION_CACHE=false says that none is wanted.",
            obstacle,
        )
        return ""
    jax.config.update("jax_compilation_cache_dir", folder)
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", _MIN_COMPILE_S)
    return folder


def _find_obstacle(folder: str) -> str:
    """Makes a folder and returns why nothing can be written into it; empty if it can."""
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        return f"{folder} cannot be made ({error.strerror})"
    return "" if os.access(folder, os.W_OK | os.X_OK) else f"{folder} cannot be written"
