"""The simulation against real jobs of one process and of more on this machine, each with the environments of one host.

The hosts of a job of N processes are these processes, each on the cores that the launcher gives it, or on its part of
all cores where there are fewer. One is measured without a job, and so is an all-reduce between them. All else is
predicted: how acting and learning share the cores, and what it costs that updates wait for the slowest.
"""

from collections.abc import Callable, Sequence
import dataclasses
import statistics
from typing import Any

from absl import logging

from podrl.performance.benchmark.instruments import spread
from podrl.performance.benchmark.jobs import time_job
from podrl.performance.planning.measurement import Measurements
from podrl.performance.planning.reduction import reduce_step
from podrl.performance.planning.simulation import simulate
from podrl.performance.planning.system import System

_SEEDS = 3


def check_jobs(
    arguments: Sequence[str],
    num_envs: int,
    measure: Callable[[int], tuple[System, Measurements]],
    process_counts: Sequence[int],
    *,
    repeats: int,
    seconds: float,
    warm_up: int,
) -> dict[str, Any]:
    """Simulates and runs a job in several numbers of processes, in turns: machines change with their neighbours.

    N processes have N times `num_envs` environments. `measure` measures one of so many processes alone, and returns its
    job and what was measured for it.

    Returns:
        The report, ready for JSON: `jobs` with `simulated` and `measured` env steps per second and the `error`,
        simulated over measured less 1, each over the repeats; and the `measurements` of a host, the last time.

    Raises:
        RuntimeError: if a job fails; has its last line.
    """
    found: dict[int, list[dict[str, float]]] = {count: [] for count in process_counts}
    hosts: dict[int, dict[str, Any]] = {}
    for repeat in range(repeats):
        for count in process_counts:
            where = f"{count} process(es), repeat {repeat + 1} of {repeats}"
            logging.info(f"{where}: measuring one without a job, and an all-reduce")
            system, measurements = measure(count)
            step = reduce_step(count, measurements.gradient_bytes, measurements.reductions)
            case = dataclasses.replace(system, hosts=count, allreduce_s=step.wall_s)
            logging.info(f"{where}: a real job")
            grown = [*arguments, f"--config.actors.num_envs={num_envs * count}"]
            rate = time_job(grown, count, 1, seconds, warm_up=warm_up)
            logging.info(f"{where}: simulating")
            simulated = statistics.median(simulate(case, seed=seed).env_steps_per_second for seed in range(_SEEDS))
            row = {"simulated": simulated, "measured": rate, "error": simulated / rate - 1}
            found[count].append(row | {"allreduce_s": case.allreduce_s * case.reductions})
            hosts[count] = measurements.to_json()
    jobs = [
        {name: spread([one[name] for one in rounds]) for name in rounds[0]}
        | {"processes": count, "measurements": hosts[count]}
        for count, rounds in found.items()
    ]
    return {"jobs": jobs, "repeats": repeats, "seconds": seconds, "seeds": _SEEDS}
