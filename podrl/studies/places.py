"""The command line of each run: through the launcher on this machine or on a TPU slice, or as a step of a SLURM job."""

import os
import sys

from podrl.config.config import check
from podrl.config.programs import start_arguments
from podrl.launch import local
from podrl.launch.options import FLAGS, Options
from podrl.launch.slurm_resources import step_flags
from podrl.studies.feasibility import as_arguments
from podrl.studies.grid import NUM_ENVS, Definition, Machines, Trial
from podrl.studies.job import RunCommand

_GIVEN_BY_THE_GRID = ("nodes", "gpus_per_node", "devices_per_process", "accelerator_type", "queued_resource")
_QUIET = {"log.tensorboard": "False"}  # The rows say the same.


def launch_flags(place: str) -> list[str]:
    """Flags of the launcher that a study takes for a place, and hands on."""
    of_place = [name for name, flag in FLAGS.items() if place in flag.goes_with and not name.startswith("env_")]
    names = [name for name in of_place if name not in _GIVEN_BY_THE_GRID]
    return ["tpu", *names] if place == "tpu" else names


def platform(definition: Definition) -> str:
    """What the devices of a study are: `cpu`, `gpu` or `tpu`."""
    here = "gpu" if local.visible_gpus(os.environ) else "cpu"
    return {"tpu": "tpu", "slurm": definition.device, "local": here}[definition.place]


def default_devices(definition_place: str, processes: int) -> int:
    """Devices of each process by default: one on CPU, an equal share of this machine's GPUs."""
    gpus = local.visible_gpus(os.environ) if definition_place == "local" else []
    if not gpus:
        return 1
    check(
        len(gpus) % processes == 0,
        f"--processes: {processes} does not divide {len(gpus)} GPU(s). Give --devices_per_process.",
    )
    return len(gpus) // processes


def common_overrides(definition: Definition) -> dict[str, str]:
    """Overrides of the config for all points: the study's own, and then the user's."""
    steps = {} if definition.steps is None else {"total_env_steps": str(definition.steps)}
    return {**_QUIET, **definition.overrides, **steps}


def make_run_command(definition: Definition, trial: Trial, run_folder: str) -> RunCommand:
    """What starts a run, or resumes it."""
    own = {NUM_ENVS: str(trial.point.num_envs), "seed": str(trial.seed)}
    own |= {"topology.seeds": str(trial.num_seeds)} if trial.num_seeds > 1 else {}
    values = {**common_overrides(definition), **trial.point.settings, **own}
    training = [f"--config={definition.config}", *as_arguments(values), f"--workdir={run_folder}"]
    machines = trial.point.machines
    if definition.place == "slurm":
        srun = ("srun", *step_flags(slurm_options(definition, machines)))
        environ = {} if definition.device == "gpu" else {"JAX_NUM_CPU_DEVICES": str(machines.devices_per_process)}
        # SIGTERM to srun makes it kill its tasks. This signals them, and not the batch script.
        allocation = os.environ.get("SLURM_JOB_ID", "")
        signals = ("scancel", allocation, "--signal=") if allocation else ()
        command = (*srun, sys.executable, *start_arguments("train"), *training)
        return RunCommand(command=command, environ=environ, signal_command=signals)
    if definition.place == "tpu":
        flags = {**definition.flags, "tpu": slice_name(definition, machines)}
        if "runtime_version" in flags:
            flags["accelerator_type"] = str(machines.slice_type)
        where = [f"--{name}={value}" if value else f"--{name}" for name, value in flags.items()]
    else:
        where = [f"--local_processes={machines.processes}", f"--devices_per_process={machines.devices_per_process}"]
    return RunCommand(command=(sys.executable, *start_arguments("train"), *where, *training))


def slurm_options(definition: Definition, machines: Machines) -> Options:
    """The launcher's options of a SLURM job on so many nodes."""
    flags = {name: FLAGS[name].kind(value) for name, value in definition.flags.items()}
    gpus = machines.devices_per_process if definition.device == "gpu" else 0
    return Options(slurm=True, nodes=machines.processes, gpus_per_node=gpus, **flags)


def slice_name(definition: Definition, machines: Machines) -> str:
    """The TPU of one type: `study-v5litepod-16`."""
    return f"{definition.flags['tpu']}-{machines.slice_type}"
