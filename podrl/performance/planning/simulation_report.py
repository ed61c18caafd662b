"""What `podrl.performance.planning` simulated as a person reads it: a table, and answers in sentences."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console

from podrl.performance.benchmark.instruments import QUIET_LOAD
from podrl.performance.planning.measurement import Measurements
from podrl.performance.planning.study import OVERLAPPED, SLOW, SYNCHRONOUS, rate_per_host
from podrl.runtime.tables import describe_rates, describe_spread, print_lines, print_rows

_WORKS = {
    "env": "a pool's step",
    "act": "a turn of acting",
    "finish": "the end of an unroll",
    "transfer": "transfer",
    "update": "update",
    "publish": "parameters to actors",
    "open": "opening pools",
}


def show_study(console: Console, report: Mapping[str, Any], measurements: Measurements) -> None:
    """Prints the report of `planning.study.run_study`, a row for each number of hosts, with what it rests on."""
    _show_measurements(console, measurements)
    print_lines(console, ["Modelled, none of these jobs was run; whole unrolls are simulated:"])
    plain, compared, rows = not console.is_terminal, (SLOW, _lag_variant(report)), []
    for row in report["rows"]:
        variants = report["variants"][row["hosts"]]
        shares = (row["learner_idle"], row["learner"]["wait_hosts"], row["actor_idle"], row["env_idle"])
        cells = (f"{row['hosts']:,}", describe_rates(row["env_steps_per_second"], plain=plain))
        rates = (f"{row['updates_per_second']['median']:,.2f}", f"{row['of_first']:.3f}")
        others = (f"x {variants[name]['median']:.3f}" for name in compared)
        rows.append((*cells, *rates, *(f"{share:.0%}" for share in shares), f"{row['lag']:.2f}", *others))
    headings = ("hosts", "env steps/s", "updates/s", "per host", "learner idle", "waits for hosts", "actors idle")
    print_rows(console, (*headings, "pools idle", "lag", *compared), rows)
    print_lines(console, answers(report))


def show_check(console: Console, report: Mapping[str, Any]) -> None:
    """Prints the report of `planning.study.check_jobs`: simulated, measured, and how far off."""
    plain, rows = not console.is_terminal, []
    for job in report["jobs"]:
        print_lines(console, [f"One of {job['processes']} process(es), measured alone:"])
        _show_measurements(console, Measurements.from_json(job["measurements"]))
        rates = (describe_rates(job[name], plain=plain) for name in ("simulated", "measured"))
        error = describe_spread(job["error"], "+.0%", plain=plain)
        rows.append((str(job["processes"]), *rates, error, f"{1e3 * job['allreduce_s']['median']:.2f} ms"))
    headings = ("processes", "simulated env steps/s", "measured env steps/s", "error", "all-reduces")
    print_rows(console, headings, rows)
    how = (
        f"Median (min to max) of {report['repeats']} repeats, in each of which one process was measured on its share "
        f"of the cores, an all-reduce, and a real job of {report['seconds']:g} s, warm-up excluded; simulated is the "
        f"median of {report['seeds']} seeds. Each column has its own median: the error is that of the repeats' errors."
    )
    print_lines(console, [how])


def answers(report: Mapping[str, Any]) -> Iterator[str]:
    """What the table means, one line for each question."""
    last = report["rows"][-1]
    count, variants = last["hosts"], report["variants"][last["hosts"]]
    yield (
        f"Per host: env steps/s of a host of {count:,}, as a multiple of a host of {report['hosts'][0]:,}. The last "
        "two columns: the whole job's rate as a multiple of that in the second. Idle: learners wait for rollouts or "
        "other hosts, actors for parameters, pools for actions. In brackets: over the simulation's seeds; how far the "
        "model is off says --check."
    )
    if count > 1:
        yield (
            f"Lock-step: {count:,} hosts keep {last['of_first']:.0%} of their speed. An update waits for the slowest "
            f"of them, on average {1e3 * last['host_wait_s']:.1f} ms a host; where learners would wait for rollouts "
            "anyway, that costs nothing."
        )
        yield (
            f"One host of {count:,} whose cores are {report['slow']:g} times as slow costs the whole job "
            f"{1 - variants[SLOW]['median']:.0%} of its speed; no slack anywhere would make it "
            f"{1 - 1 / report['slow']:.0%}, whatever the number of hosts."
        )
    ratio = variants[_lag_variant(report)]["median"]
    if _lag_variant(report) == SYNCHRONOUS:
        yield f"Acting during updates makes {count:,} host(s) {1 / ratio:.2f} times as fast as synchronous acting."
    else:
        yield f"With actors.lag=1 {count:,} host(s) would be {ratio:.2f} times as fast."
    for entry in report["unrolls"]:
        few, many = entry["few"], entry["many"]
        yield (
            f"Unrolls of {entry['unroll_length']}: {many['env_steps_per_second']['median']:,.0f} env steps/s on "
            f"{many['hosts']:,} host(s), each {rate_per_host(many) / rate_per_host(few):.0%} of its speed among "
            f"{few['hosts']:,}; {many['updates_per_second']['median']:,.2f} updates/s."
        )
    if len(report["unrolls"]) > 1:
        yield (
            "A longer unroll sums more steps, so hosts differ less from each other relative to its length; but there "
            "are fewer updates. Updates and transfers are assumed to grow in proportion."
        )


def _lag_variant(report: Mapping[str, Any]) -> str:
    return OVERLAPPED if report["max_lag"] == 0 else SYNCHRONOUS


def _show_measurements(console: Console, measurements: Measurements) -> None:
    host, facts = measurements.host, measurements.facts
    told = [
        f"{facts['config']} on {facts['env']}. A host: {host.threads} actor thread(s) x {host.pools} pools x "
        f"{host.envs_per_pool} environments, unrolls of {host.unroll_length}; {measurements.gradient_bytes:,} bytes of "
        f"gradients. Measured on {facts['device_kind']}, {measurements.cores} core(s), load average before "
        f"{facts['load_average']:.1f}."
    ]
    if facts["load_average"] > QUIET_LOAD * measurements.cores:
        told.append("Other work ran on this machine, so what was measured takes less time on a quiet one.")
    print_lines(console, told)
    rows = []
    for name, words in _WORKS.items():
        work = host.works[name]
        found = (work.mean, *(work.quantile(part) for part in (0.5, 0.99, 1.0)))
        rows.append((words, *(f"{1e3 * value:,.3f}" for value in found), f"{work.cores:.2f}"))
    print_rows(console, ("milliseconds of", "mean", "median", "99 %", "longest", "cores busy"), rows)
