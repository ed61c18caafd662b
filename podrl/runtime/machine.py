"""What XLA, JAX and the C library are told about this machine, before JAX looks for devices. Imports no JAX."""

from collections.abc import Iterable, Mapping, MutableMapping, Sequence
import ctypes
from glob import glob
import importlib.metadata
import importlib.util
import os
from pathlib import Path
import pkgutil
import sys

from podrl.mistakes import check
from podrl.runtime.container_limits import quota_cores

_GOOGLE = "0x1ae0"  # the PCI vendor of TPUs, and of network cards of Google's virtual machines
GPU_FLAG = "--xla_gpu_deterministic_ops"
_YNNPACK_FLAG = "--xla_cpu_experimental_ynn_fusion_type"
_YNNPACK_CONVOLUTION = "LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION"
# By version, the processor's feature with which YNNPACK's convolutions pay; None where they do not with any measured.
_PAYS_WITH = {"0.10.2": "avx512f", "0.12.0.1": None}
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8  # From glibc's malloc.h.
_NEVER = -1


def skip_absent_tpu(environ: MutableMapping[str, str], plugins: Sequence[str], sys: Path = Path("/sys")) -> None:
    """Keeps JAX from a TPU that cannot be there, though libtpu is, as on a laptop with what the planner needs.

    It would look for one, and complain on stderr. Call it before JAX looks for devices.

    Args:
        environ: gets JAX_PLATFORMS=cpu, unless it has a value.
        plugins: names of JAX's plugins that are installed; with any, JAX is left to choose.
        sys: where the kernel tells of PCI devices.
    """
    if environ.get("JAX_PLATFORMS") or plugins or importlib.util.find_spec("libtpu") is None:
        return
    vendors = {Path(path).read_text().strip() for path in glob(f"{sys}/bus/pci/devices/*/vendor")}
    if _GOOGLE not in vendors:
        environ["JAX_PLATFORMS"] = "cpu"


def available_cores() -> int:
    """Cores that this process may use, of which a scheduler or a container's quota may have left it fewer."""
    return int(min(_bound_cores(), quota_cores()))


def _bound_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def busy_core_seconds(stat: Path = Path("/proc/stat")) -> float:
    """Core-seconds since the machine's start in which the cores that this process may use worked for anybody.

    On a virtual machine those count in which its host ran others instead ("steal"). Under a quota of time, which may be
    spent on any of more cores, it is their average over as many cores as the quota has. 0 where the system does not
    tell; Linux does, in steps of a tick.

    Args:
        stat: as in proc_stat(5).
    """
    if not stat.exists():
        return 0.0
    own = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    rows = [line.split() for line in stat.read_text().splitlines()]
    ticks = (map(int, row[1:9]) for row in rows if row and row[0] in own)
    busy = (user + nice + system + irq + softirq + steal for user, nice, system, _, _, irq, softirq, steal in ticks)
    return sum(busy) / os.sysconf("SC_CLK_TCK") * available_cores() / len(own)


def suit_xla_to_cpu(environ: MutableMapping[str, str], plugins: Sequence[str] | None = None) -> None:
    """Tells XLA's CPU backend what suits the machine, but for what the user decided.

    Call it before JAX looks for devices, and after `skip_absent_tpu`.

    Args:
        environ: gets NPROC under a quota of fewer cores than there are, and what `give_xla_two_threads` and, where
            JAX has only the CPU, `convolve_on_all_cores` say.
        plugins: names of JAX's plugins that are installed; None if the process takes the CPU whatever there is.
    """
    give_xla_two_threads(environ, available_cores())
    if available_cores() < _bound_cores() and not environ.get("NPROC"):  # XLA would have a thread for each of these.
        environ["NPROC"] = str(available_cores())
    platforms = environ.get("JAX_PLATFORMS", "")
    if plugins is None or platforms == "cpu" or not (platforms or plugins or importlib.util.find_spec("libtpu")):
        convolve_on_all_cores(environ)


def give_xla_two_threads(environ: MutableMapping[str, str], cores: int) -> None:
    """Has XLA's CPU backend use two threads where it would use one. Call it before JAX looks for devices.

    With one, acting waits behind each update. And programs for one thread add in another order than those for two, so
    that a process that is bound to a core would not do the same, bit for bit, as one that has two.

    Args:
        environ: gets NPROC=2 if there is a single core, unless it has a value.
        cores: that the process may use.
    """
    if cores == 1 and not environ.get("NPROC"):
        environ["NPROC"] = "2"


def convolve_on_all_cores(
    environ: MutableMapping[str, str], cpuinfo: Path = Path("/proc/cpuinfo"), jaxlib: str | None = None
) -> None:
    """Keeps XLA's CPU backend from YNNPACK's convolutions on processors where the fallback learns sooner.

    With jaxlib 0.10.2 they run on one core each. With AVX-512 they are so much faster than the fallback that this pays,
    with AVX2 only by a sixth, and the fallback takes all cores. With 0.12.0.1 they take all cores, too, but for
    most shapes more time of each than the fallback. See docs/performance.md.

    Args:
        environ: gets another of `XLA_FLAGS`, unless it has one that decides this, or names a file of flags.
        cpuinfo: where the kernel tells of the processor; where it does not, nothing is changed.
        jaxlib: version; by default what is installed. XLA ends a process that gives it a flag that it does not know, so
            others than those that this was measured with are left alone.
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
    """Whether XLA's CPU backend hands convolutions to YNNPACK: it does unless `XLA_FLAGS` say otherwise.

    What a file says, if `XLA_FLAGS` names one, is not looked at: at worst a form is the slower one.
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

    On a CPU and on a TPU XLA's programs give the same bits every time. On a GPU they do only if told to: sums by atomic
    operations, and kernels that are chosen by how fast they happen to be at the start, differ from run to run. XLA
    reads its flags once, when the first device is asked for: call this before.

    Args:
        environ: of the process; changed.
        plugins: names of JAX's plugins that are installed, see `jax_plugins`.

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


def jax_plugins() -> list[str]:
    """Names of the plugins through which JAX finds accelerators, installed in either of the two ways that it knows."""
    entry_points = [point.name for point in importlib.metadata.entry_points(group="jax_plugins")]
    namespace = importlib.util.find_spec("jax_plugins")
    folders = namespace.submodule_search_locations if namespace else None
    return entry_points + [module.name for module in pkgutil.iter_modules(folders or [])]


def keep_freed_memory() -> bool:
    """Tells glibc to reuse freed memory instead of giving it back; to be called before other threads start.

    XLA's CPU backend allocates the temporaries of a program anew for each execution. By default glibc gives large
    blocks back to the kernel as soon as they are freed, so every update pays a page fault for each 4 KiB that it
    touches: a Nature CNN's update of 320 transitions ran 1.65 times as fast without. The price is that the process's
    memory stays at its peak, and that all threads share one arena (measured on 2 cores only).

    Returns:
        Whether it took effect; false where the C library is another one.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    # One arena, which grows without limit: those of further threads fall back to fresh pages beyond 64 MiB.
    return all([mallopt(_M_MMAP_MAX, 0), mallopt(_M_TRIM_THRESHOLD, _NEVER), mallopt(_M_ARENA_MAX, 1)])
