"""The flags of XLA that suit this machine or that bits depend on, set before JAX looks for devices. Imports no JAX."""

from collections.abc import Iterable, Mapping, MutableMapping, Sequence
import importlib.metadata
import importlib.util
from pathlib import Path

from podrl.mistakes import check
from podrl.runtime.machine import available_cores, bound_cores

GPU_FLAG = "--xla_gpu_deterministic_ops"
_YNNPACK_FLAG = "--xla_cpu_experimental_ynn_fusion_type"
_OF_ACCELERATORS = ("--xla_gpu_", "--xla_tpu_")
_YNNPACK_CONVOLUTION = "LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION"
# By jaxlib's version, the processor feature with which YNNPACK's convolutions are faster; None if no measured one is.
_PAYS_WITH = {"0.10.2": "avx512f", "0.12.0.1": None}


def suit_xla_to_cpu(environ: MutableMapping[str, str], plugins: Sequence[str] | None = None) -> None:
    """Sets the variables of XLA's CPU backend that suit this machine, except those that the user has set.

    Call it before JAX looks for devices, and after `podrl.runtime.machine.skip_absent_tpu`.

    Args:
        environ: gets NPROC under a quota of fewer cores than the machine has, and what `give_xla_two_threads` and,
            where JAX has only the CPU, `convolve_on_all_cores` set.
        plugins: names of JAX's installed plugins; None if the process uses the CPU in any case.
    """
    give_xla_two_threads(environ, available_cores())
    if available_cores() < bound_cores() and not environ.get("NPROC"):  # XLA would start a thread for each bound core.
        environ["NPROC"] = str(available_cores())
    platforms = environ.get("JAX_PLATFORMS", "")
    if plugins is None or platforms == "cpu" or not (platforms or plugins or importlib.util.find_spec("libtpu")):
        convolve_on_all_cores(environ)


def give_xla_two_threads(environ: MutableMapping[str, str], cores: int) -> None:
    """Makes XLA's CPU backend use two threads where it would use one. Call it before JAX looks for devices.

    With one thread, acting waits behind each update. Programs for one thread also add in another order than programs
    for two, so a process that is bound to one core would differ in its bits from one that has two.

    Args:
        environ: gets NPROC=2 if there is a single core, unless it has a value.
        cores: number of cores that the process may use.
    """
    if cores == 1 and not environ.get("NPROC"):
        environ["NPROC"] = "2"


def convolve_on_all_cores(
    environ: MutableMapping[str, str], cpuinfo: Path = Path("/proc/cpuinfo"), jaxlib: str | None = None
) -> None:
    """Keeps XLA's CPU backend from using YNNPACK's convolutions on processors where the fallback is faster.

    With jaxlib 0.10.2 each of them runs on one core. With AVX-512 they are so much faster than the fallback that this
    pays; with AVX2 they are faster by only a sixth, and the fallback uses all cores. With 0.12.0.1 they use all cores
    too, but take more time than the fallback for most shapes. See docs/performance.md.

    Args:
        environ: gets a flag in `XLA_FLAGS`, unless that already has one that decides this, or names a file of flags.
        cpuinfo: the kernel's description of the processor; if it does not exist, nothing is changed.
        jaxlib: version of jaxlib; by default the installed one. XLA ends a process that gives it an unknown flag, so
            versions other than the measured ones are left alone.
    """
    features = cpuinfo.read_text().split() if cpuinfo.exists() else []
    version = jaxlib or importlib.metadata.version("jaxlib")
    if version not in _PAYS_WITH or _PAYS_WITH[version] in features or "avx2" not in features:
        return
    flags = environ.get("XLA_FLAGS", "").split()
    in_file = bool(flags) and not flags[0].startswith("--")
    if not in_file and not _ynnpack_flags(environ):
        environ["XLA_FLAGS"] = " ".join([*flags, f"{_YNNPACK_FLAG}=-{_YNNPACK_CONVOLUTION}"])


def has_ynnpack_convolutions(environ: Mapping[str, str]) -> bool:
    """Returns whether XLA's CPU backend hands convolutions to YNNPACK: it does unless `XLA_FLAGS` say otherwise.

    If `XLA_FLAGS` name a file, the file is not read: at worst the slower form of a convolution is chosen.
    """
    flags = _ynnpack_flags(environ)
    if not flags:
        return True
    kinds = flags[-1].partition("=")[2].split(",")
    changes_default = kinds[0][:1] in ("+", "-")
    return f"-{_YNNPACK_CONVOLUTION}" not in kinds if changes_default else _YNNPACK_CONVOLUTION in kinds


def _ynnpack_flags(environ: Mapping[str, str]) -> list[str]:
    return [flag for flag in environ.get("XLA_FLAGS", "").split() if flag.partition("=")[0] == _YNNPACK_FLAG]


def require_determinism(environ: MutableMapping[str, str], plugins: Iterable[str]) -> None:
    """Appends what `determinism='exact'` needs to `XLA_FLAGS`, where XLA may run on GPUs.

    On a CPU and on a TPU XLA's programs give the same bits every time. On a GPU they do so only if told to: sums by
    atomic operations, and kernels chosen by their measured speed at the start, differ from run to run. XLA reads its
    flags once, when the first device is asked for: call this before.

    Args:
        environ: the process's environment variables; changed.
        plugins: names of JAX's installed plugins, see `podrl.runtime.machine.jax_plugins`.

    Raises:
        ConfigError: if the user's own flags say the opposite.

    Source: openxla/xla, `xla.proto`: `xla_gpu_deterministic_ops` excludes operations that are not deterministic, and
    switches autotuning off.
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


def flags_of_cpu(flags: Iterable[str]) -> list[str]:
    """Returns those of XLA's flags that change what a CPU computes, except podrl's own choice for this CPU.

    Args:
        flags: flags of `XLA_FLAGS`.
    """
    own = f"{_YNNPACK_FLAG}=-{_YNNPACK_CONVOLUTION}"
    return [flag for flag in flags if flag != own and not flag.startswith(_OF_ACCELERATORS)]
