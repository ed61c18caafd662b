"""How the processes of a job that share a host divide its GPUs, and whether there are enough of them.

Two processes cannot use one GPU: NCCL refuses it, and a number that does not exist is an "invalid device ordinal".

Sources: srun(1) on --gpus-per-task, --gpu-bind and its output variables; CUDA's documentation of CUDA_VISIBLE_DEVICES.
"""

from collections.abc import Mapping, Sequence
import itertools
from pathlib import Path

from absl import logging

from podrl.config.config import check
from podrl.runtime.job.membership import Membership

_DRIVER = Path("/proc/driver/nvidia/gpus")
_ON_NODE = "SLURM_GPUS_ON_NODE"
_HIDDEN = ("-1", "NoDevFiles")  # Values by which users and SLURM hide all GPUs.
_BINDING = ("SLURM_GPUS_PER_TASK", "SLURM_GPU_BIND", "SLURM_NTASKS_PER_GPU")


def share_gpus(environ: Mapping[str, str], membership: Membership) -> tuple[int, ...] | None:
    """Returns the numbers of this process's GPUs, among the visible ones; None if it may use all visible ones.

    Args:
        environ: the process's environment variables.
        membership: the process's place.
    """
    visible = _visible(environ)
    if membership.processes_here <= 1 or visible == [] or _is_bound(environ, visible):
        return None
    count = _on_node(environ) if visible is None else len(visible)
    each = max(1, (count or 0) // membership.processes_here)
    return tuple(range(membership.local_index * each, (membership.local_index + 1) * each))


def check_gpus(
    environ: Mapping[str, str], membership: Membership, plugins: Sequence[str], driver: Path = _DRIVER
) -> None:
    """Warns of GPUs of this host that no process of the job uses.

    Args:
        environ: the process's environment variables.
        membership: the process's place.
        plugins: names of JAX's installed plugins; without one for GPUs nothing is checked.
        driver: the folder in which NVIDIA's driver lists GPUs.

    Raises:
        ConfigError: if the job has more processes on this host than GPUs.
    """
    here, platforms = membership.processes_here, environ.get("JAX_PLATFORMS", "")
    for_gpus = any("cuda" in name or "rocm" in name for name in plugins)
    if here <= 1 or not for_gpus or (platforms and not {"cuda", "gpu", "rocm"} & set(platforms.split(","))):
        return
    visible = _visible(environ)
    bound, on_node = _is_bound(environ, visible), _on_node(environ)
    if visible == [] or (visible and bound and not on_node and visible[0].startswith("MIG-")):  # Parts of GPUs only.
        return
    if bound or visible is None:
        listed = len(list(driver.iterdir())) if driver.is_dir() else 0
        count, where = (on_node, f"{_ON_NODE}={on_node}") if on_node else (listed, f"{driver} lists {listed}")
    else:
        count, where = len(visible), f"CUDA_VISIBLE_DEVICES={environ['CUDA_VISIBLE_DEVICES']}"
    if not count:  # Neither SLURM nor the driver gives a number.
        return
    check(
        here <= count,
        f"{here} processes of this job run on {membership.host}, which has {count} GPU(s) for them ({where}), and each "
        f"needs one of its own. Start at most {count} on a host (--ntasks-per-node), or set JAX_PLATFORMS=cpu to train "
        "without GPUs.",
    )
    used = (len(visible or ()) if bound else count // here) * here
    if 0 < used < count and membership.local_index == 0:
        logging.warning(
            "%d of the %d GPUs of %s (%s) are used by no process: each of the %d here takes %d. Start one process that "
            "takes all, or a number that divides them.",
            count - used,
            count,
            membership.host,
            where,
            here,
            used // here,
        )


def _visible(environ: Mapping[str, str]) -> list[str] | None:
    """Returns the GPUs visible to this process; None if unknown. CUDA ignores all that follows a hiding name."""
    if (named := environ.get("CUDA_VISIBLE_DEVICES")) is None:
        return None
    names = [name for part in named.split(",") if (name := part.strip())]
    return list(itertools.takewhile(lambda name: name not in _HIDDEN, names))


def _on_node(environ: Mapping[str, str]) -> int | None:
    """Returns the number of GPUs that SLURM gives the step on this node; None if it does not say."""
    number = environ.get(_ON_NODE, "")
    return int(number) if number.isdigit() else None


def _is_bound(environ: Mapping[str, str], visible: Sequence[str] | None) -> bool:
    """Returns whether the scheduler shows each process only its own GPUs, which are then numbered from 0 for all."""
    if visible is None:
        return False
    asked = any(environ.get(name, "none") not in ("", "none") for name in _BINDING)
    return len(visible) == 1 or (asked and len(visible) < (_on_node(environ) or 0))
