"""One job on ever more hosts, and what becomes of it if a host is slow, unrolls are longer, or nothing overlaps.

The simulation is held against real jobs of one process and of more on this machine. The hosts of a job of N processes
are these processes, each on the cores that the launcher gives it, or on its part of all cores where there are fewer.
One is measured without a job, and so is an all-reduce between them. All else is predicted: how acting and learning
share the cores, and what it costs that updates wait for the slowest.
"""

from collections.abc import Callable, Sequence
import dataclasses
import statistics
from typing import Any

from absl import logging
import numpy as np

from podrl.performance.benchmark.instruments import spread
from podrl.performance.benchmark.jobs import time_job
from podrl.performance.planning.measurement import Measurements
from podrl.performance.planning.reduction import reduce_step
from podrl.performance.planning.simulation import SimulatedRun, simulate
from podrl.performance.planning.system import Interconnect, System

SLOW = "one slow host"
SYNCHRONOUS = "synchronous"
OVERLAPPED = "overlapped"
_SEEDS = 3  # of each simulation that is held against a real job


def run_study(
    system: System,
    hosts: Sequence[int],
    *,
    interconnect: Interconnect,
    gradient_bytes: float,
    slow: float = 1.5,
    unroll_lengths: Sequence[int] = (),
    updates: int = 100,
    seeds: int = 3,
) -> dict[str, Any]:
    """Simulates a job on several numbers of hosts, and its variants.

    The system's `hosts` and `allreduce_s` are replaced. The cores of one host are `slow` times as slow, for the
    question what that costs; unrolls of `unroll_lengths` are compared on the fewest and the most hosts.

    Returns:
        The report, ready for JSON: `rows`, one for each number of hosts, and by number of hosts the rates of `variants`
        as multiples of those of the job as it is; `unrolls`, what longer ones come to.
    """

    def outcomes(name: str, base: System, count: int) -> list[SimulatedRun]:
        logging.info(f"simulating {count:,} host(s): {name}")
        case = dataclasses.replace(base, hosts=count, allreduce_s=interconnect.allreduce_s(count, gradient_bytes))
        return [simulate(case, updates=updates, seed=seed) for seed in range(seeds)]

    lag_name, other_lag = (OVERLAPPED, 1) if system.max_lag == 0 else (SYNCHRONOUS, 0)
    changes: dict[str, Any] = {SLOW: {"slow": {**system.slow, 0: slow}}, lag_name: {"max_lag": other_lag}}
    rows: list[dict[str, Any]] = []
    variants: dict[int, dict[str, Any]] = {}
    for count in hosts:
        plain = outcomes("as it is", system, count)
        rows.append(_row(plain))
        variants[count] = {}
        for name, change in changes.items():
            pairs = zip(outcomes(name, dataclasses.replace(system, **change), count), plain, strict=True)
            ratios = [one.env_steps_per_second / other.env_steps_per_second for one, other in pairs]
            variants[count][name] = spread(ratios)
    for row in rows:
        row["of_first"] = rate_per_host(row) / rate_per_host(rows[0])
    unrolls = []
    for length in unroll_lengths:
        longer = dataclasses.replace(system, host=system.host.with_unroll_length(length))
        few, many = (_row(outcomes(f"unrolls of {length}", longer, n)) for n in (min(hosts), max(hosts)))
        unrolls.append({"unroll_length": length, "few": few, "many": many})
    about = {"hosts": list(hosts), "updates": updates, "seeds": seeds, "slow": slow, "max_lag": system.max_lag}
    return {**about, "rows": rows, "variants": variants, "unrolls": unrolls}


def rate_per_host(row: dict[str, Any]) -> float:
    """Env steps per second of each host, median over seeds."""
    return float(row["env_steps_per_second"]["median"] / row["hosts"])


def _row(outcomes: Sequence[SimulatedRun]) -> dict[str, Any]:
    """A case over its seeds: rates with their spread, and mean shares of time."""

    def mean_shares(name: str) -> dict[str, float]:
        found = [getattr(outcome, name) for outcome in outcomes]
        return {bucket: float(np.mean([shares[bucket] for shares in found])) for bucket in found[0]}

    learner, actors = mean_shares("learner"), mean_shares("actors")
    return {
        "hosts": outcomes[0].hosts,
        "env_steps_per_second": spread([one.env_steps_per_second for one in outcomes]),
        "updates_per_second": spread([len(one.update_s) / float(one.update_s.sum()) for one in outcomes]),
        "lag": float(np.mean([sum(lag * share for lag, share in one.lag.items()) for one in outcomes])),
        "learner": learner,
        "learner_idle": learner["wait_rollouts"] + learner["wait_hosts"],
        "actors": actors,
        "actor_idle": actors["wait_params"] + actors["wait_rollouts"],
        "env_idle": float(np.mean([one.env_idle for one in outcomes])),
        "host_wait_s": float(np.mean([one.host_wait_s for one in outcomes])),
    }


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
