"""What `podrl.performance.planning` simulated as a person reads it: a table, and answers in sentences."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from podrl.performance.benchmark.instruments import QUIET_LOAD
from podrl.performance.planning.measurement import Measurements
from podrl.performance.planning.study import OVERLAPPED, SLOW, SYNCHRONOUS
from podrl.telemetry.panel import compact
from podrl.telemetry.tables import print_table

_GRAINS = {
    "step": "every turn of every thread is simulated",
    "unroll": "whole unrolls are simulated, on few hosts too, so that rows compare",
}
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
    """Prints the report of `planning.study.run_study`, with what it rests on."""
    plain = not console.is_terminal
    _show_measurements(console, measurements)
    console.print(f"Modelled, none of these jobs was run; {_GRAINS[report['grain']]}:", soft_wrap=True)
    print_table(console, make_hosts_table(report, plain=plain))
    for line in answers(report):
        console.print(line, soft_wrap=True)


def show_check(console: Console, report: Mapping[str, Any]) -> None:
    """Prints the report of `simulation_check.check_jobs`."""
    for job in report["jobs"]:
        console.print(f"The first of {job['processes']} process(es), measured beside the others:", soft_wrap=True)
        _show_measurements(console, Measurements.from_json(job["measurements"]))
    print_table(console, make_check_table(report, plain=not console.is_terminal))
    console.print(
        f"Median (min to max) of {report['repeats']} repeats, in each of which the processes were measured on their "
        f"shares of the cores, an all-reduce, and a real job of {report['seconds']:g} s, warm-up excluded; simulated "
        f"is the median of {report['seeds']} seeds. Each column has its own median: the error is that of the repeats' "
        "errors. Core time: of each process in an update's all-reduces. Slowest: its turns, as multiples of those of "
        "the fastest process. Other work: cores that it kept busy during the real jobs.",
        soft_wrap=True,
    )


def make_works_table(measurements: Measurements, *, plain: bool) -> Table:
    """What a host does, as it was measured or given."""
    table = _empty_table("milliseconds of", ("mean", "median", "99 %", "longest", "cores busy"), plain=plain)
    for name, words in _WORKS.items():
        work = getattr(measurements.host, name)
        seconds = work.seconds
        found = (seconds.mean, seconds.median, seconds.quantile(0.99), seconds.values[-1])
        table.add_row(words, *(f"{1e3 * value:,.3f}" for value in found), f"{work.cores:.2f}")
    return table


def make_hosts_table(report: Mapping[str, Any], *, plain: bool) -> Table:
    """A row for each number of hosts."""
    headings = ("env steps/s", "updates/s", "per host", "learner idle", "waits for hosts", "actors idle")
    more = ("pools idle", "lag", "one slow host", _lag_variant(report))
    table = _empty_table("hosts", (*headings, *more), plain=plain)
    for row in report["rows"]:
        variants = report["variants"][row["hosts"]]
        table.add_row(
            f"{row['hosts']:,}",
            _rate(row["env_steps_per_second"], plain),
            f"{row['updates_per_second']['median']:,.2f}",
            f"{row['of_first']:.3f}",
            f"{row['learner_idle']:.0%}",
            f"{row['learner']['wait_hosts']:.0%}",
            f"{row['actor_idle']:.0%}",
            f"{row['env_idle']:.0%}",
            f"{row['lag']:.2f}",
            f"x {variants[SLOW]['median']:.3f}",
            f"x {variants[_lag_variant(report)]['median']:.3f}",
        )
    return table


def make_check_table(report: Mapping[str, Any], *, plain: bool) -> Table:
    """A row for each number of processes: simulated, measured, and how far off."""
    columns = ("simulated env steps/s", "measured env steps/s", "error")
    headings = (*columns, "all-reduces", "core time", "slowest", "other work")
    table = _empty_table("processes", headings, plain=plain)
    between = " " if plain else "\n"
    for job in report["jobs"]:
        error = job["error"]
        table.add_row(
            str(job["processes"]),
            _rate(job["simulated"], plain),
            _rate(job["measured"], plain),
            f"{error['median']:+.0%}{between}({error['min']:+.0%} to {error['max']:+.0%})",
            f"{1e3 * job['allreduce_s']['median']:.2f} ms",
            f"{1e3 * job['allreduce_core_s']['median']:.2f} ms",
            f"x {job['slowest']['median']:.2f}",
            f"{job['other_cores']['median']:.2f} cores",
        )
    return table


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
            f"of them, on average {1e3 * last['host_wait_s']['mean']:.1f} ms a host; where learners would wait for "
            "rollouts anyway, that costs nothing."
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
        yield f"With actors.synchronous=False {count:,} host(s) would be {ratio:.2f} times as fast, at lag 1."
    yield from _unroll_lines(report)


def _unroll_lines(report: Mapping[str, Any]) -> Iterator[str]:
    unrolls = report["unrolls"]
    for entry in unrolls:
        few, many = entry["few"], entry["many"]
        kept = (many["env_steps_per_second"]["median"] / many["hosts"]) / (
            few["env_steps_per_second"]["median"] / few["hosts"]
        )
        yield (
            f"Unrolls of {entry['unroll_length']}: {many['env_steps_per_second']['median']:,.0f} env steps/s on "
            f"{many['hosts']:,} host(s), each {kept:.0%} of its speed among {few['hosts']:,}; "
            f"{many['updates_per_second']['median']:,.2f} updates/s."
        )
    if len(unrolls) > 1:
        yield (
            "A longer unroll sums more steps, so hosts differ less from each other relative to its length; but there "
            "are fewer updates. Updates and transfers are assumed to grow in proportion."
        )


def _lag_variant(report: Mapping[str, Any]) -> str:
    return OVERLAPPED if report["max_lag"] == 0 else SYNCHRONOUS


def _show_measurements(console: Console, measurements: Measurements) -> None:
    host, facts = measurements.host, measurements.facts
    console.print(
        f"{facts['config']} on {facts['env']}. A host: {host.threads} actor thread(s) x {host.pools} pools x "
        f"{host.envs_per_pool} environments, unrolls of {host.unroll_length}; {measurements.gradient_bytes:,} bytes of "
        f"gradients. Measured on {facts['device_kind']}, {measurements.cores} core(s), load average before "
        f"{facts['load_average']:.1f}.",
        soft_wrap=True,
    )
    if facts["load_average"] > QUIET_LOAD * measurements.cores:
        console.print(
            "Other work ran on this machine, so what was measured takes less time on a quiet one.", soft_wrap=True
        )
    print_table(console, make_works_table(measurements, plain=not console.is_terminal))


def _empty_table(first: str, headings: tuple[str, ...], *, plain: bool) -> Table:
    table = Table(box=box.MARKDOWN if plain else box.SIMPLE_HEAD)
    table.add_column(first)
    for heading in headings:
        table.add_column(heading, justify="right")
    return table


def _rate(rate: Mapping[str, float], plain: bool) -> str:
    between = " " if plain else "\n"
    return f"{rate['median']:,.0f}{between}({compact(rate['min'])} to {compact(rate['max'])})"
