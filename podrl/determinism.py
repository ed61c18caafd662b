"""What `determinism='exact'` asks of the compiler.

On a CPU and on a TPU XLA's programs give the same bits every time. On a GPU they do only if told to: sums by atomic
operations, and kernels that are chosen by how fast they happen to be at the start, differ from run to run. XLA reads
its flags once, when the first device is asked for.

Source: openxla/xla, `xla.proto`: `xla_gpu_deterministic_ops` excludes operations that are not deterministic, and
switches autotuning off.
"""

from collections.abc import Iterable, MutableMapping
import importlib.metadata
import importlib.util
import pkgutil

from podrl.config import check

GPU_FLAG = "--xla_gpu_deterministic_ops"


def require_determinism(environ: MutableMapping[str, str], plugins: Iterable[str]) -> None:
    """Appends what XLA needs to `XLA_FLAGS`, where it may run on GPUs; to be called before JAX looks for devices.

    Args:
        environ: of the process; changed.
        plugins: names of JAX's plugins that are installed, see `jax_plugins`.

    Raises:
        ConfigError: if the user's own flags say the opposite.
    """
    platforms = environ.get("JAX_PLATFORMS", "")
    if not any("cuda" in name or "rocm" in name for name in plugins):
        return
    if platforms and not any(name in platforms for name in ("cuda", "rocm", "gpu")):
        return
    flags = environ.get("XLA_FLAGS", "").split()
    given = [flag for flag in flags if flag.partition("=")[0] == GPU_FLAG]
    check(
        not given or given[-1].partition("=")[2].lower() in ("", "true", "1"),
        f"XLA_FLAGS has {given[-1] if given else ''}, but determinism='exact' needs {GPU_FLAG}=true. Remove it, or set "
        "determinism='free'.",
    )
    if not given:
        environ["XLA_FLAGS"] = " ".join([*flags, f"{GPU_FLAG}=true"])


def jax_plugins() -> list[str]:
    """Names of the plugins through which JAX finds accelerators, installed in either of the two ways that it knows."""
    entry_points = [point.name for point in importlib.metadata.entry_points(group="jax_plugins")]
    namespace = importlib.util.find_spec("jax_plugins")
    folders = namespace.submodule_search_locations if namespace else None
    return entry_points + [module.name for module in pkgutil.iter_modules(folders or [])]
