"""The simulation against real jobs: the same config in one process and in more on this machine, each with the
environments of one host.

The hosts of a job of N processes are these processes, each on the cores that the launcher gives it. They are measured
without a job, all at the same time, since what a core does depends on what its neighbours do. So are all-reduces
between them (`podrl.performance.planning.measurement`, `podrl.performance.planning.reduction`). All else is predicted:
how acting, learning and messages share the cores, how processes share them where there are fewer, and what it costs
that updates wait for the slowest.
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
import resource
import statistics
import time
from typing import Any

from podrl.launch.local import share_of_cores, usable_cores
from podrl.performance.benchmark.instruments import spread
from podrl.performance.benchmark.jobs import time_job
from podrl.performance.planning.measurement import Measurements
from podrl.performance.planning.reduction import NUMBER_BYTES, SMALL_SUMS, VOTES, Reduction, measure_allreduce
from podrl.performance.planning.simulation import simulate
from podrl.performance.planning.system import System
from podrl.runtime.machine import busy_core_seconds

_SEEDS = 3
_UPDATES = 200


def check_jobs(
    arguments: Sequence[str],
    num_envs: int,
    measure: Callable[[Sequence[tuple[int, ...]]], list[tuple[System, Measurements]]],
    process_counts: Sequence[int],
    *,
    repeats: int,
    seconds: float,
    warm_up: int,
    show_phase: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Simulates and runs a job in several numbers of processes, in turns: machines change with their neighbours.

    Args:
        arguments: that name the config on the command line.
        num_envs: of the job of one process; N processes have N times as many.
        measure: for processes at the same time, each bound to such cores, or to none: the job of one of them alone, and
            what was measured for it.
        process_counts: to compare.
        repeats: of each measurement and each real job.
        seconds: that each real job runs for, from its warm-up on.
        warm_up: updates at the beginning of each that do not count.
        show_phase: told what happens now.

    Returns:
        The report, ready for JSON: `jobs` with `simulated` and `measured` env steps per second and the `error`,
        simulated over measured less 1, each over the repeats; and the `measurements` of its first host, the last time.

    Raises:
        RuntimeError: if a job fails; has its last line.
    """
    found: dict[int, list[dict[str, float]]] = {count: [] for count in process_counts}
    hosts: dict[int, dict[str, Any]] = {}
    for repeat in range(repeats):
        for count in process_counts:
            show = functools.partial(_show, show_phase, count, f"{repeat + 1} of {repeats}")
            show("measuring them without a job")
            shares = [share_of_cores(usable_cores(), index, count, 1) for index in range(count)]
            alone = measure(shares)
            show("an all-reduce")
            measurements = alone[0][1]
            shared = count > 1 and not all(shares)
            case = on_one_machine([system for system, _ in alone], _reduce(count, measurements), shared=shared)
            show("a real job")
            before = _Busy.now()
            grown = [*arguments, f"--config.actors.num_envs={num_envs * count}"]
            rate = time_job(grown, count, 1, seconds, warm_up=warm_up)
            others_cores = before.others(_Busy.now())
            show("simulating")
            simulated = statistics.median(_rate(case, seed) for seed in range(_SEEDS))
            hosts[count] = measurements.to_json()
            found[count].append(
                {
                    "simulated": simulated,
                    "measured": rate,
                    "error": simulated / rate - 1,
                    "allreduce_s": case.allreduce_s * case.reductions,
                    "allreduce_core_s": case.allreduce_core_s * case.reductions,
                    "slowest": max(case.slow.values()) / min(case.slow.values()),
                    "other_cores": others_cores,
                }
            )
    jobs = [
        {
            "processes": count,
            **{name: spread([one[name] for one in found[count]]) for name in found[count][0]},
            "measurements": hosts[count],
        }
        for count in process_counts
    ]
    return {"jobs": jobs, "repeats": repeats, "seconds": seconds, "seeds": _SEEDS}


def _show(show_phase: Callable[[str], None], count: int, repeat: str, text: str) -> None:
    show_phase(f"{count} process(es), repeat {repeat}: {text}")


def _reduce(processes: int, measurements: Measurements) -> Reduction:
    """What is summed up in an optimizer step, one after the other, with its share of what the update sums up once."""
    gradients, number = measure_allreduce(processes, [measurements.gradient_bytes, NUMBER_BYTES])
    return gradients + number * (SMALL_SUMS + VOTES / measurements.reductions)


def _rate(case: System, seed: int) -> float:
    return simulate(case, updates=_UPDATES, seed=seed, grain="step").env_steps_per_second


def on_one_machine(alone: Sequence[System], reduction: Reduction, *, shared: bool) -> System:
    """A job whose processes run on one machine.

    Args:
        alone: each process as a job of its own, with the cores that it may use, measured while the others were, too.
        reduction: of gradients between the processes, and of what goes with them.
        shared: whether all use the same cores, for which they waited while they were measured; else each has its own.
    """
    hosts = [system.host.without_waits() if shared else system.host for system in alone]
    turns_s = [host.act.seconds.mean for host in hosts]
    return dataclasses.replace(
        alone[0],
        host=hosts[0],
        hosts=len(hosts),
        hosts_per_machine=len(hosts) if shared else 1,
        slow={index: turn_s / turns_s[0] for index, turn_s in enumerate(turns_s)},
        allreduce_s=reduction.wall_s,
        allreduce_core_s=min(reduction.core_s, reduction.wall_s),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Busy:
    """Core-seconds so far: of this process's cores, and of the children of this process that have ended."""

    wall_s: float
    machine_s: float
    children_s: float

    @classmethod
    def now(cls) -> "_Busy":
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return cls(
            wall_s=time.perf_counter(),
            machine_s=busy_core_seconds(),
            children_s=children.ru_utime + children.ru_stime,
        )

    def others(self, end: "_Busy") -> float:
        """Cores that neither kept busy but others did; 0 where the machine does not tell."""
        wall_s = end.wall_s - self.wall_s
        busy_s = (end.machine_s - self.machine_s) - (end.children_s - self.children_s)
        return max(0.0, busy_s / wall_s)
