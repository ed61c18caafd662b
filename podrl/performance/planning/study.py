"""One job on ever more hosts, and what becomes of it if a host is slow, unrolls are longer, or nothing overlaps.

All of it is simulated at one grain, that of the most hosts: where cores run short the grains differ by some percent,
which would be taken for an effect of the hosts.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses
from typing import Any

from podrl.performance.benchmark.instruments import spread
from podrl.performance.planning.outcome import SimulatedRun
from podrl.performance.planning.simulation import grain_for, simulate
from podrl.performance.planning.system import Interconnect, System

AS_IT_IS = "as it is"
SLOW = "one slow host"
SYNCHRONOUS = "synchronous"
OVERLAPPED = "overlapped"


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
    show_phase: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Simulates a job on several numbers of hosts, and its variants.

    Args:
        system: the job; its `hosts` and `allreduce_s` are replaced.
        hosts: numbers to try.
        interconnect: that joins them.
        gradient_bytes: that each all-reduce sums up.
        slow: factor by which the cores of one host are slower, for the question what that costs.
        unroll_lengths: to compare, on the smallest and the largest number of hosts.
        updates: of each simulation, after its warm-up.
        seeds: simulations of each case.
        show_phase: told what happens now.

    Returns:
        The report, ready for JSON: `grain`, that of all simulations; `rows`, one for each number of hosts, and by
        number of hosts the rates of `variants` as multiples of those of the job as it is; `unrolls`, what longer ones
        come to.
    """
    grain = grain_for(max(hosts))

    def sized(base: System, count: int) -> System:
        seconds = interconnect.allreduce_s(count, gradient_bytes)
        return dataclasses.replace(base, hosts=count, allreduce_s=seconds)

    def outcomes(name: str, case: System) -> list[SimulatedRun]:
        show_phase(f"simulating {case.hosts:,} host(s): {name}")
        return [simulate(case, updates=updates, seed=seed, grain=grain) for seed in range(seeds)]

    def ratio(name: str, case: System, plain: Sequence[SimulatedRun]) -> dict[str, float]:
        return _ratios(outcomes(name, case), plain)

    rows, variants = [], {}
    lag_name, other_lag = (OVERLAPPED, 1) if system.max_lag == 0 else (SYNCHRONOUS, 0)
    for count in hosts:
        case = sized(system, count)
        plain = outcomes(AS_IT_IS, case)
        rows.append(_row(plain))
        variants[count] = {
            SLOW: ratio(SLOW, dataclasses.replace(case, slow={**case.slow, 0: slow}), plain),
            lag_name: ratio(lag_name, dataclasses.replace(case, max_lag=other_lag), plain),
        }
    for row in rows:
        row["of_first"] = _per_host(row) / _per_host(rows[0])
    unrolls = []
    for length in unroll_lengths:
        longer = dataclasses.replace(system, host=system.host.with_unroll_length(length))
        few, many = ([*outcomes(f"unrolls of {length}", sized(longer, n))] for n in (min(hosts), max(hosts)))
        unrolls.append({"unroll_length": length, "few": _row(few), "many": _row(many)})
    return {
        "hosts": list(hosts),
        "grain": grain,
        "updates": updates,
        "seeds": seeds,
        "slow": slow,
        "unroll_length": system.host.unroll_length,
        "max_lag": system.max_lag,
        "rows": rows,
        "variants": variants,
        "unrolls": unrolls,
    }


def _row(outcomes: Sequence[SimulatedRun]) -> dict[str, Any]:
    """A case over its seeds: rates with their spread, and mean shares of time."""

    def mean(values: Iterable[float]) -> float:
        found = list(values)
        return sum(found) / len(found)

    def mean_shares(shares: Sequence[Mapping[str, float]]) -> dict[str, float]:
        return {name: mean(each[name] for each in shares) for name in shares[0]}

    return {
        "hosts": outcomes[0].hosts,
        "env_steps_per_second": spread([outcome.env_steps_per_second for outcome in outcomes]),
        "updates_per_second": spread([outcome.updates_per_second for outcome in outcomes]),
        "lag": mean(outcome.mean_lag for outcome in outcomes),
        "learner_idle": mean(outcome.learner_idle for outcome in outcomes),
        "actor_idle": mean(outcome.actor_idle for outcome in outcomes),
        "env_idle": mean(outcome.env_idle for outcome in outcomes),
        "learner": mean_shares([outcome.learner_shares for outcome in outcomes]),
        "actors": mean_shares([outcome.actor_shares for outcome in outcomes]),
        "host_wait_s": {
            "mean": mean(outcome.host_wait_s.mean() for outcome in outcomes),
            "max": max(float(outcome.host_wait_s.max()) for outcome in outcomes),
        },
    }


def _ratios(outcomes: Sequence[SimulatedRun], plain: Sequence[SimulatedRun]) -> dict[str, float]:
    pairs = zip(outcomes, plain, strict=True)
    return spread([one.env_steps_per_second / other.env_steps_per_second for one, other in pairs])


def _per_host(row: Mapping[str, Any]) -> float:
    return row["env_steps_per_second"]["median"] / row["hosts"]
