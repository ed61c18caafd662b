"""Environment variables of JAX's own under which an agent would compute something else, or nothing.

They are often left over from another program, in a shell's start file. A run whose numbers depend on them would not be
that of its config, so they are refused before anything starts.
"""

from collections.abc import Collection, Mapping
import importlib.util

from podrl.config import check

_OFF = ("", "0", "false", "f", "no", "n", "off")
_ON = ("1", "true", "t", "yes", "y", "on")
# What each may be: its value without the variable, and values that change nothing.
_HARMLESS: Mapping[str, Collection[str]] = {
    "JAX_ENABLE_X64": _OFF,
    "JAX_NUMPY_DTYPE_PROMOTION": ("", "standard"),
    "JAX_NUMPY_RANK_PROMOTION": ("", "allow", "warn"),
    "JAX_DEFAULT_DTYPE_BITS": ("", "64"),
    "JAX_DEFAULT_PRNG_IMPL": ("", "threefry2x32"),
    "JAX_THREEFRY_PARTITIONABLE": ("", *_ON),
    "JAX_ENABLE_CUSTOM_PRNG": _OFF,
    "JAX_DISABLE_JIT": _OFF,
    "JAX_NO_TRACING": _OFF,
    "JAX_DEBUG_NANS": _OFF,
    "JAX_DEBUG_INFS": _OFF,
    "JAX_DEBUG_KEY_REUSE": _OFF,
    "JAX_ENABLE_CHECKS": _OFF,
    "JAX_CHECK_TRACER_LEAKS": _OFF,
    "JAX_TRANSFER_GUARD": ("", "allow", "log"),
    "JAX_TRANSFER_GUARD_HOST_TO_DEVICE": ("", "allow", "log"),
    "JAX_TRANSFER_GUARD_DEVICE_TO_DEVICE": ("", "allow", "log"),
    "JAX_TRANSFER_GUARD_DEVICE_TO_HOST": ("", "allow", "log"),
}
# Words of JAX_PLATFORMS: what they ask for, the plugins' names that have it, and what to install.
_PLUGINS: Mapping[str, tuple[str, tuple[str, ...], str]] = {
    "cuda": ("NVIDIA GPUs", ("cuda",), "pip install -e '.[cuda]', which takes jax[cuda13]"),
    "gpu": ("GPUs", ("cuda", "rocm"), "pip install -e '.[cuda]', which takes jax[cuda13]"),
    "rocm": ("AMD GPUs", ("rocm",), "the plugin for ROCm that JAX's installation page names"),
    "tpu": ("TPUs", ("tpu",), "pip install -e '.[tpu]', which takes jax[tpu]"),
}


def check_jax_settings(environ: Mapping[str, str], plugins: Collection[str]) -> None:
    """Refuses variables with which JAX would not do what a config says; to be called by all that run an agent.

    Args:
        environ: of the process.
        plugins: names of JAX's plugins that are installed, see `determinism.jax_plugins`.

    Raises:
        ConfigError: for one of them, or for a platform in JAX_PLATFORMS whose plugin is not installed.
    """
    for name, harmless in _HARMLESS.items():
        value = environ.get(name, "")
        check(
            value.lower() in harmless,
            f"The environment has {name}={value}, with which JAX computes something else than podrl's config says, or "
            f"stops. Take it out: `unset {name}`, or `env -u {name}` before the command.",
        )
    platforms = environ.get("JAX_PLATFORMS", "")
    for platform in platforms.split(","):
        what, names, install = _PLUGINS.get(platform.strip().lower(), ("", (), ""))
        check(
            not what or any(name in plugin for name in names for plugin in _installed(plugins)),
            f"JAX_PLATFORMS={platforms} asks for {what}, but JAX has no plugin for them here. Install it: {install}; "
            "or unset JAX_PLATFORMS, which takes what there is.",
        )


def _installed(plugins: Collection[str]) -> list[str]:
    """The plugins, and the TPU's, which is a library that JAX knows."""
    return [*plugins, *(("tpu",) if importlib.util.find_spec("libtpu") else ())]
