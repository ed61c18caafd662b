"""What JAX has to be told of the machine before it looks for devices."""

from collections.abc import MutableMapping, Sequence
from glob import glob
import importlib.util
import os
from pathlib import Path

_GOOGLE = "0x1ae0"  # the PCI vendor of TPUs, and of network cards of Google's virtual machines


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
    """Cores that this process may use, which a scheduler may have made fewer than the host's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
