"""What this machine has: cores, their use, JAX's plugins, a TPU or none; and how glibc keeps memory. Imports no JAX."""

from collections.abc import MutableMapping, Sequence
import ctypes
from glob import glob
import importlib.metadata
import importlib.util
import os
from pathlib import Path
import pkgutil
import sys

from podrl.runtime.container_limits import quota_cores

_OF_TPUS = ("TPU_NAME", "TPU_WORKER_ID", "TPU_ACCELERATOR_TYPE")  # Variables that TPU machines have.
_GOOGLE = "0x1ae0"  # PCI vendor of TPUs, and of what else Google's virtual machines have:
_NO_TPUS = ("0x001f", "0x0042")  # NVMe disks and gVNIC, their network card.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8  # From glibc's malloc.h.
_NEVER = -1


def skip_absent_tpu(
    environ: MutableMapping[str, str],
    plugins: Sequence[str],
    sys: Path = Path("/sys"),
    dev: Path = Path("/dev"),
) -> None:
    """Keeps JAX from looking for a TPU on a machine without one, although libtpu is installed, as the planner needs it.

    JAX and libtpu would complain on stderr. Call it before JAX looks for devices.

    Args:
        environ: gets JAX_PLATFORMS=cpu, unless it has a value.
        plugins: names of JAX's installed plugins; with any, JAX is left to choose.
        sys: the kernel's folder that lists PCI devices.
        dev: the folder of device files; a container may show a TPU's file, but not the PCI device.
    """
    if glob(f"{dev}/accel*") or glob(f"{dev}/vfio/[0-9]*") or any(environ.get(name) for name in _OF_TPUS):
        return
    if environ.get("JAX_PLATFORMS") or plugins or importlib.util.find_spec("libtpu") is None:
        return
    vendors = [Path(path) for path in glob(f"{sys}/bus/pci/devices/*/vendor")]
    found = [path.with_name("device") for path in vendors if path.read_text().strip() == _GOOGLE]
    if all(path.exists() and path.read_text().strip() in _NO_TPUS for path in found):
        environ["JAX_PLATFORMS"] = "cpu"


def available_cores() -> int:
    """Returns the number of cores that this process may use, which a scheduler or a container's quota may limit."""
    return int(min(bound_cores(), quota_cores()))


def bound_cores() -> int:
    """Returns the number of cores that the scheduler lets this process run on, whatever its quota of time."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def busy_core_seconds(stat: Path = Path("/proc/stat")) -> float:
    """Returns the core-seconds since boot for which the cores that this process may use were busy with any process.

    On a virtual machine time that its host gave to others ("steal") counts too. Under a time quota, which may be spent
    on any of more cores, the result is their average times the quota's cores. 0 where the system does not say; Linux
    does, in steps of a tick.

    Args:
        stat: the file of proc_stat(5).
    """
    if not stat.exists():
        return 0.0
    own = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    rows = [line.split() for line in stat.read_text().splitlines()]
    ticks = (map(int, row[1:9]) for row in rows if row and row[0] in own)
    busy = (user + nice + system + irq + softirq + steal for user, nice, system, _, _, irq, softirq, steal in ticks)
    return sum(busy) / os.sysconf("SC_CLK_TCK") * available_cores() / len(own)


def jax_plugins() -> list[str]:
    """Returns the names of JAX's installed plugins for accelerators, found in either of the two ways that JAX knows."""
    entry_points = [point.name for point in importlib.metadata.entry_points(group="jax_plugins")]
    namespace = importlib.util.find_spec("jax_plugins")
    folders = namespace.submodule_search_locations if namespace else None
    return entry_points + [module.name for module in pkgutil.iter_modules(folders or [])]


def keep_freed_memory() -> bool:
    """Tells glibc to reuse freed memory instead of returning it; call it before other threads start.

    XLA's CPU backend allocates the temporaries of a program anew for each execution. By default glibc returns large
    blocks to the kernel as soon as they are freed, so every update pays a page fault for each 4 KiB that it touches: a
    Nature CNN's update of 320 transitions ran 1.65 times as fast without. The price is that the process's memory stays
    at its peak, and that all threads share one arena (measured on 2 cores only).

    Returns:
        Whether it took effect; false with another C library.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    # One arena, which grows without limit: arenas of further threads fall back to fresh pages beyond 64 MiB.
    return all([mallopt(_M_MMAP_MAX, 0), mallopt(_M_TRIM_THRESHOLD, _NEVER), mallopt(_M_ARENA_MAX, 1)])
