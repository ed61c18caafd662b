"""Starts a job of several processes on this machine."""

from collections.abc import Mapping, Sequence
import math
import os
from pathlib import Path
import shlex
import shutil
import socket
import subprocess
import sys

from podrl.config.config import check
from podrl.launch.members import Member
from podrl.runtime.container_limits import SHARERS_VARIABLE, cpu_quota
from podrl.runtime.job.secret import VARIABLE, make_secret

_HOST = "127.0.0.1"
_NVIDIA_SMI_LIMIT_S = 60.0
_OWN_SECRET = f'"${VARIABLE}"'
_TOPOLOGY = Path("/sys/devices/system/cpu")


def make_members(
    arguments: Sequence[str],
    *,
    program: Sequence[str],
    num_processes: int,
    devices_per_process: int | None,
    gpus: Sequence[str],
    cores: Sequence[int],
    port: int,
) -> list[Member]:
    """Makes the members of a job on one machine, with a new secret by which they know each other.

    Cores are divided, not shared: every process sizes the thread pools of its emulators and its compiler by the cores
    that it may use, and pools for all cores in each process would compete for them.

    Args:
        arguments: arguments of the training command.
        program: arguments of the Python that each process is, before those of the training.
        num_processes: number of processes; a single one gets no coordinator.
        devices_per_process: devices of each process; None for one on CPU, and for an equal share of the GPUs.
        gpus: GPUs as `CUDA_VISIBLE_DEVICES` names them; empty for a job on CPU.
        cores: cores to divide, neighbours first; if there are fewer than processes, or virtual devices, they are
            shared.
        port: a free port, for the coordinator.

    Raises:
        ConfigError: if the GPUs do not divide evenly.
    """
    if gpus:
        share = _gpus_of_each(len(gpus), num_processes, devices_per_process)
        environs = [
            {"CUDA_VISIBLE_DEVICES": ",".join(gpus[index * share : (index + 1) * share])}
            for index in range(num_processes)
        ]
    elif devices_per_process is None:
        environs = [{}] * num_processes
    else:
        environs = [{"JAX_NUM_CPU_DEVICES": str(devices_per_process)}] * num_processes
    if num_processes > 1:
        if math.isfinite(cpu_quota()):
            environs = [{**environ, SHARERS_VARIABLE: str(num_processes)} for environ in environs]
        secret = make_secret()
        environs = [{**environ, VARIABLE: secret} for environ in environs]
    devices = 1 if gpus else devices_per_process or 1  # On CPU each device is a thread, and they wait for each other.
    joining = ["--coordinator", f"{_HOST}:{port}", "--process_count", str(num_processes), "--process_index"]
    return [
        Member(
            name=f"p{index}",
            command=(
                sys.executable,
                *program,
                *arguments,
                *([*joining, str(index)] if num_processes > 1 else []),
            ),
            environ=environs[index],
            tells_end=True,
            cores=share_of_cores(cores, index, num_processes, devices) if num_processes > 1 else (),
        )
        for index in range(num_processes)
    ]


def free_port() -> int:
    """Returns a free port of this machine."""
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        return int(probe.getsockname()[1])


def visible_gpus(environ: Mapping[str, str]) -> list[str]:
    """Returns the NVIDIA GPUs that JAX would use, as `CUDA_VISIBLE_DEVICES` names them; none if it uses others.

    Raises:
        ConfigError: if nvidia-smi does not answer.
    """
    platforms = environ.get("JAX_PLATFORMS", "")
    if platforms and not {"cuda", "gpu"} & set(platforms.split(",")):
        return []
    if (named := environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [gpu.strip() for gpu in named.split(",") if gpu.strip() and gpu.strip() != "-1"]
    if shutil.which("nvidia-smi") is None:
        return []
    try:
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=_NVIDIA_SMI_LIMIT_S)
    except subprocess.TimeoutExpired:
        check(
            False,
            f"nvidia-smi did not answer within {_NVIDIA_SMI_LIMIT_S:.0f} s. Set CUDA_VISIBLE_DEVICES, or "
            "JAX_PLATFORMS=cpu to train without GPUs.",
        )
    return [str(index) for index, _ in enumerate(line for line in listing.stdout.splitlines() if line[:4] == "GPU ")]


def usable_cores() -> list[int]:
    """Returns the cores that this process may use, hardware threads of one core side by side; empty if unknown."""
    if not hasattr(os, "sched_getaffinity"):
        return []
    return sorted(os.sched_getaffinity(0), key=_place)


def shell_line(member: Member) -> str:
    """Returns the shell command that starts a member by hand; it takes the secret from the shell, if that has one."""
    shown = {name: shlex.quote(value) for name, value in member.environ.items()}
    environ = [f"{name}={value if name != VARIABLE else _OWN_SECRET}" for name, value in shown.items()]
    pinning = ["taskset", "-c", ",".join(map(str, member.cores))] if member.cores else []
    return " ".join([*environ, *pinning, shlex.join(member.command)])


def _gpus_of_each(num_gpus: int, num_processes: int, asked: int | None) -> int:
    share = asked or num_gpus // num_processes
    fits = share * num_processes <= num_gpus if asked else share * num_processes == num_gpus
    check(
        share > 0 and fits,
        f"--local_processes={num_processes}"
        + (f" of --devices_per_process={asked}" if asked else "")
        + f" does not fit {num_gpus} GPU(s). Use numbers that do, or JAX_PLATFORMS=cpu to train without GPUs.",
    )
    return share


def share_of_cores(cores: Sequence[int], index: int, num_processes: int, devices: int) -> tuple[int, ...]:
    """Returns the cores that a process is bound to; empty if there are too few to divide, and all processes share them.

    Args:
        cores: cores to divide, neighbours first.
        index: the process's index.
        num_processes: number of processes in the job.
        devices: each process's devices that are CPU threads.
    """
    if len(cores) < num_processes * devices:
        return ()
    start, end = (len(cores) * i // num_processes for i in (index, index + 1))
    return tuple(sorted(cores[start:end]))


def _place(core: int) -> tuple[int, int, int]:
    """Returns a core's location: package, physical core, hardware thread."""
    try:
        folder = _TOPOLOGY / f"cpu{core}" / "topology"
        package, physical = (int((folder / name).read_text()) for name in ("physical_package_id", "core_id"))
    except (OSError, ValueError):
        return 0, 0, core
    return package, physical, core
