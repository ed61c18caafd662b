"""Which platforms JAX has no need to look for."""

from collections.abc import MutableMapping, Sequence
from glob import glob
import importlib.util
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
