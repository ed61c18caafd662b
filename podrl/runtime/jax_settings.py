"""JAX's own environment variables under which an agent would compute something else, or nothing.

They are often left over from another program, in a shell's start file. A run whose numbers depend on them would not
follow its config, so they are refused before anything starts.
"""

from collections.abc import Collection, Mapping
import importlib.util

from podrl.config.config import ConfigError, check
from podrl.config.extras import install_command

_OFF = ("", "0", "false", "f", "no", "n", "off")
_ON = ("1", "true", "t", "yes", "y", "on")
# Values of each variable that change nothing; the empty text stands for an unset variable.
HARMLESS: Mapping[str, Collection[str]] = {
    "JAX_ENABLE_X64": _OFF,
    "JAX_NUMPY_DTYPE_PROMOTION": ("", "standard"),
    "JAX_NUMPY_RANK_PROMOTION": ("", "allow", "warn"),
    "JAX_DEFAULT_DTYPE_BITS": ("", "64"),
    "JAX_DEFAULT_PRNG_IMPL": ("", "threefry2x32"),
    "JAX_THREEFRY_PARTITIONABLE": ("", *_ON),
    "JAX_ENABLE_CUSTOM_PRNG": _OFF,
    "JAX_RANDOM_SEED_OFFSET": ("", "0"),
    "JAX_HIGH_DYNAMIC_RANGE_GUMBEL": _OFF,
    "JAX_USE_RGV3": ("", *_ON),
    "JAX_SOFTMAX_CUSTOM_JVP": _OFF,
    "JAX_CUSTOM_JVP3": _OFF,
    "JAX_CUSTOM_VJP3": _OFF,
    "JAX_REMAT3": _OFF,
    "JAX_SCAN3": _OFF,
    "JAX_USE_DIRECT_LINEARIZE": ("", *_ON),
    "JAX_USE_HLO_LOGISTIC_LOWERING": ("",),
    "JAX_ALLOW_F16_REDUCTIONS": ("", *_ON),
    "JAX_DISABLE_MOST_OPTIMIZATIONS": _OFF,
    "JAX_OPTIMIZATION_LEVEL": ("", "unknown"),
    "JAX_EXEC_TIME_OPTIMIZATION_EFFORT": ("", "0", "0.0"),
    "JAX_MEMORY_FITTING_LEVEL": ("", "o2"),
    "JAX_MEMORY_FITTING_EFFORT": ("", "0", "0.0"),
    "JAX_USE_SHARDY_PARTITIONER": ("", *_ON),
    "JAX_ERROR_CHECKING_BEHAVIOR_NAN": ("", "ignore"),
    "JAX_ERROR_CHECKING_BEHAVIOR_DIVIDE": ("", "ignore"),
    "JAX_ERROR_CHECKING_BEHAVIOR_OOB": ("", "ignore"),
    "JAX_EXPLICIT_X64_DTYPES": ("", "warn", "allow"),
    "JAX_LEGACY_PRNG_KEY": ("", "allow", "warn"),
    "JAX_NO_EXECUTION": _OFF,
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
_ROCM = "the plugin for ROCm that JAX's installation page names"
# Values of JAX_PLATFORMS: the devices they ask for, the names of plugins that provide them, the extra that brings one,
# and what that takes.
_PLUGINS: Mapping[str, tuple[str, tuple[str, ...], str, str]] = {
    "cuda": ("NVIDIA GPUs", ("cuda",), "cuda", "jax[cuda13]"),
    "gpu": ("GPUs", ("cuda", "rocm"), "cuda", "jax[cuda13]"),
    "rocm": ("AMD GPUs", ("rocm",), "", ""),
    "tpu": ("TPUs", ("tpu",), "tpu", "jax[tpu]"),
}


def check_jax_settings(environ: Mapping[str, str], plugins: Collection[str]) -> None:
    """Refuses environment variables with which JAX would not do what a config says.

    Every program that runs an agent calls it.

    Args:
        environ: the process's environment variables.
        plugins: names of JAX's installed plugins, see `machine.jax_plugins`.

    Raises:
        ConfigError: for such a variable, or for a platform in JAX_PLATFORMS whose plugin is not installed.
    """
    for name, harmless in HARMLESS.items():
        value = environ.get(name, "")
        check(
            value.lower() in harmless,
            f"The environment has {name}={value}, with which JAX computes something else than podrl's config says, or "
            f"stops. Take it out: `unset {name}`, or `env -u {name}` before the command.",
        )
    platforms = environ.get("JAX_PLATFORMS", "")
    for platform in platforms.split(","):
        what, names, extra, takes = _PLUGINS.get(platform.strip().lower(), ("", (), "", ""))
        if not what or any(name in plugin for name in names for plugin in _installed(plugins)):
            continue
        install = f"{install_command(extra)}, which takes {takes}" if extra else _ROCM
        raise ConfigError(
            f"JAX_PLATFORMS={platforms} asks for {what}, but JAX has no plugin for them here. Install it: {install}; "
            "or unset JAX_PLATFORMS, which takes what there is."
        )


def _installed(plugins: Collection[str]) -> list[str]:
    """Returns the plugins, and the TPU's, which is a library that JAX knows without one."""
    return [*plugins, *(("tpu",) if importlib.util.find_spec("libtpu") else ())]
