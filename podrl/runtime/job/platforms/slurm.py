"""SLURM: the place of a task that `srun` started.

Source: the facts are those that JAX's own detection rests on, `jax/_src/clusters`. That code is not called because it
restricts a process that has a whole GPU host to one GPU.
"""

from collections.abc import Mapping
import re
import socket

from podrl.runtime.job.membership import Membership
from podrl.runtime.job.platforms.variables import port_of_job, whole_variable

_SPECIAL_STEP = 0xFFFFFFF0  # The script of `sbatch` and the shell of `salloc` may be steps, numbered from here.


def slurm_membership(environ: Mapping[str, str]) -> Membership | None:
    """Returns the place of a task that `srun` started; None in the script of `sbatch` and in the shell of `salloc`.

    Those have a job and may have a SLURM_PROCID, but only a step has SLURM_STEP_NODELIST.
    """
    if not all(name in environ for name in ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID")):
        return None
    number = {
        name: whole_variable(environ, name)
        for name in ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_PROCID", "SLURM_LOCALID")
    }
    count = whole_variable(environ, "SLURM_STEP_NUM_TASKS") or whole_variable(environ, "SLURM_NTASKS") or 1
    job, step = number["SLURM_JOB_ID"] or 0, number["SLURM_STEP_ID"] or 0
    if step >= _SPECIAL_STEP:
        return None
    nodes = expand_nodes(environ["SLURM_STEP_NODELIST"])
    tasks = _tasks_per_node(environ.get("SLURM_STEP_TASKS_PER_NODE", ""))
    in_blocks = environ.get("SLURM_DISTRIBUTION", "block").startswith("block") or max(tasks, default=0) == 1
    hosts = [node for node, num in zip(nodes, tasks, strict=False) for _ in range(num)] if in_blocks else []
    node = whole_variable(environ, "SLURM_NODEID")
    here = tasks[node] if node is not None and node < len(tasks) else -(-count // len(nodes))
    return Membership(
        platform="slurm",
        process_index=number["SLURM_PROCID"] or 0,
        process_count=count,
        coordinator=f"{nodes[0]}:{port_of_job(job + 521 * step)}" if count > 1 else None,
        local_index=number["SLURM_LOCALID"] or 0,
        processes_here=here if number["SLURM_LOCALID"] is not None else 1,
        job=f"SLURM job {job}, step {step}",
        hosts=tuple(hosts) if len(hosts) == count else (),
        host=environ.get("SLURMD_NODENAME") or socket.gethostname(),
    )


def expand_nodes(nodes: str) -> list[str]:
    """Expands names in SLURM's notation: `a[01-02,7],b` is a01, a02, a7, b."""
    names: list[str] = []
    for prefix, ranges in re.findall(r"([^,\[\]]+)(?:\[([^\]]*)\])?", nodes):
        for part in ranges.split(",") if ranges else [""]:
            first, _, last = part.partition("-")
            numbers = range(int(first), int(last or first) + 1) if first else []
            names += [f"{prefix}{number:0{len(first)}d}" for number in numbers] or [prefix]
    return names


def _tasks_per_node(text: str) -> list[int]:
    """Expands SLURM's `2(x3),1` to 2, 2, 2, 1."""
    found = re.findall(r"(\d+)(?:\(x(\d+)\))?", text)
    return [int(num) for num, times in found for _ in range(int(times or 1))]
