"""The simulation against real jobs: the same config in one process and in more on this machine, each with the
environments of one host.

One process is measured alone (`podrl.planning.measurement`), and all-reduces between busy processes; all else is
predicted: how acting and learning share the cores, how processes share them, and what it costs that updates wait for
the slowest.
"""

from collections.abc import Callable, Sequence
import dataclasses
import os
from pathlib import Path
import resource
import time
from typing import Any

from podrl.config import Config
from podrl.instruments import spread
from podrl.job_benchmark import time_job
from podrl.planning.measurement import Measurements
from podrl.planning.reduction import measure_allreduce
from podrl.planning.simulation import simulate
from podrl.planning.system import Interconnect, System

_SEEDS = 3
_UPDATES = 200
_NUMBER_BYTES = 4
_LEAST_CORES = 0.1


def check_jobs(
    config: Config,
    arguments: Sequence[str],
    system: System,
    measurements: Measurements,
    process_counts: Sequence[int],
    *,
    repeats: int,
    seconds: float,
    show_phase: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Simulates and runs a job in several numbers of processes.

    Args:
        config: of the job of one process; N processes have N times its environments.
        arguments: that name it on the command line.
        system: the job of one process.
        measurements: of one process on this machine.
        process_counts: to compare.
        repeats: of each real job, in turns.
        seconds: that each of them runs for, from its warm-up on.
        show_phase: told what happens now.

    Returns:
        The report, ready for JSON: `jobs` with `simulated` and `measured` env steps per second and the `error`,
        simulated over measured less 1; and what is simulated if other work keeps the cores that it had.

    Raises:
        RuntimeError: if a job fails; has its last line.
    """
    reductions: dict[int, float] = {}
    for count in process_counts:
        show_phase(f"{count} process(es): an all-reduce")
        sums = [measurements.gradient_bytes, *[_NUMBER_BYTES] * Interconnect().small_sums]
        reductions[count] = sum(measure_allreduce(count, sums, busy=True))
    measured: dict[int, list[float]] = {count: [] for count in process_counts}
    others: dict[int, list[float]] = {count: [] for count in process_counts}
    for repeat in range(repeats):
        for count in process_counts:
            show_phase(f"{count} process(es): real job {repeat + 1} of {repeats}")
            num_envs = config.actors.num_envs * count
            before = _Busy.now()
            rate = time_job([*arguments, f"--config.actors.num_envs={num_envs}"], count, 1, seconds)
            measured[count].append(rate)
            others[count].append(before.others(_Busy.now()))
    jobs = []
    for count in process_counts:
        show_phase(f"{count} process(es): simulating")
        found, others_cores = spread(measured[count]), spread(others[count])
        taken = (0.0, others_cores["median"])
        cases = [on_one_machine(system, count, measurements.cores, reductions[count], cores) for cores in taken]
        simulated, crowded = ([_rate(case, seed) for seed in range(_SEEDS)] for case in cases)
        jobs.append(
            {
                "processes": count,
                "simulated": spread(simulated),
                "simulated_with_cores_left": spread(crowded),
                "measured": found,
                "error": spread(simulated)["median"] / found["median"] - 1,
                "allreduce_s": reductions[count],
                "other_cores": others_cores,
            }
        )
    return {"jobs": jobs, "repeats": repeats, "seconds": seconds, "seeds": _SEEDS}


def _rate(case: System, seed: int) -> float:
    return simulate(case, updates=_UPDATES, seed=seed, grain="step").env_steps_per_second


def on_one_machine(system: System, processes: int, cores: int, allreduce_s: float, taken_cores: float = 0.0) -> System:
    """A job whose processes run on one machine, as the launcher starts them.

    It binds each process to its share of the cores; with fewer cores than processes all share all of them.

    Args:
        system: the job of one process.
        processes: of the job.
        cores: of the machine.
        allreduce_s: of gradients between the processes.
        taken_cores: that other work keeps busy.
    """
    left = max(_LEAST_CORES, cores - taken_cores)
    shares = processes > cores
    return dataclasses.replace(
        system,
        hosts=processes,
        cores=left if shares else left / processes,
        hosts_per_machine=processes if shares else 1,
        allreduce_s=allreduce_s,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Busy:
    """Core-seconds so far: of the whole machine, and of the children of this process that have ended."""

    wall_s: float
    machine_s: float
    children_s: float

    @classmethod
    def now(cls) -> "_Busy":
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return cls(
            wall_s=time.perf_counter(),
            machine_s=_machine_core_s(),
            children_s=children.ru_utime + children.ru_stime,
        )

    def others(self, end: "_Busy") -> float:
        """Cores that neither kept busy but others did; 0 where the machine does not tell."""
        wall_s = end.wall_s - self.wall_s
        busy_s = (end.machine_s - self.machine_s) - (end.children_s - self.children_s)
        return max(0.0, busy_s / wall_s)


def _machine_core_s() -> float:
    """Seconds that all cores together were busy since the machine's start, by proc(5)."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0
    user, nice, system, _, _, irq, softirq, steal = map(int, stat.read_text().split("\n")[0].split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
