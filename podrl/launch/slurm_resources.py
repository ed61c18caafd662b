"""What a SLURM job asks for: lines of its batch script, and the flags of the steps that it starts.

Sources: sbatch(1) and srun(1) of SLURM 22.05.
"""

from collections.abc import Mapping
import dataclasses
import shlex

from podrl.launch.options import Options

_NOTICE_S = 120  # SIGTERM comes this long before the time limit.
_WAIT_S = 600  # How long tasks may run after the first has ended.

_Settings = Mapping[str, int | str | None]


def make_header(options: Options, *, name: str, output: str, more: Mapping[str, str] | None = None) -> list[str]:
    """Returns the lines of a batch script that ask for resources, and for SIGTERM before the time limit.

    Args:
        options: the job's options; `nodes` and `gpus_per_node` are set.
        name: the job's name.
        output: file for the job's output, with SLURM's own `%` patterns.
        more: further options of sbatch.
    """
    lines = {
        "job-name": name,
        **_component(options),
        "output": shlex.quote(output),
        "open-mode": "append",
        "requeue": "",
        "signal": f"TERM@{_NOTICE_S}",
        **(more or {}),
    }
    if options.env_nodes is None:
        return _directives(lines)
    of_workers = _component(env_options(options), workers_per_node(options))
    return [*_directives(lines), "#SBATCH hetjob", *_directives(of_workers)]


def step_flags(options: Options, tasks_per_node: int = 1, *, wait_s: int = _WAIT_S) -> list[str]:
    """Returns the flags of the `srun` that starts so many processes on each node of the job.

    Args:
        options: the job's options.
        tasks_per_node: processes on each node.
        wait_s: seconds after the end of the first process in which all others have to end; 0 for no limit.
    """
    # Since 22.05 srun does not take --cpus-per-task from the job, so that all resources are repeated here. A job
    # submitted with --export=NONE would not give its tasks their secret.
    step = {
        **_resources(options, tasks_per_node),
        "ntasks": (options.nodes or 1) * tasks_per_node,
        "export": "ALL",
        "kill-on-bad-exit": 0,
        "wait": wait_s,
    }
    return [f"--{key}={value}" for key, value in step.items()]


def env_options(options: Options) -> Options:
    """Returns the options of the nodes of environment workers, as those of a job of its own."""
    return dataclasses.replace(
        options,
        nodes=options.env_nodes,
        gpus_per_node=0,
        cpus_per_task=options.env_cpus_per_task,
        partition=options.env_partition or options.partition,
        mem=options.env_mem,
    )


def workers_per_node(options: Options) -> int:
    """Returns the environment workers of each of their nodes."""
    nodes = options.env_nodes or 1
    return (options.env_workers or nodes) // nodes


def _component(options: Options, tasks_per_node: int = 1) -> _Settings:
    """Returns what one component of a job asks for."""
    return {
        **_resources(options, tasks_per_node),
        "mem": options.mem,
        "partition": options.partition,
        "account": options.account,
        "time": options.time,
    }


def _resources(options: Options, tasks_per_node: int) -> dict[str, int | str | None]:
    resources: dict[str, int | str | None] = {"nodes": options.nodes, "ntasks-per-node": tasks_per_node}
    if options.gpus_per_node:
        resources["gres"] = f"gpu:{options.gpus_per_node}"
    if options.cpus_per_task is not None:
        resources["cpus-per-task"] = options.cpus_per_task
    return resources


def _directives(settings: _Settings) -> list[str]:
    given = {key: value for key, value in settings.items() if value is not None}
    return [f"#SBATCH --{key}{f'={value}' if value != '' else ''}" for key, value in given.items()]
