"""What `podrl.performance.benchmark.measure` measured as a person reads it: a table, and a line for each conclusion."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from podrl.config.config_dict import differences
from podrl.config.units import describe_bytes
from podrl.learning.update_cost import UpdateMemory, describe_traffic
from podrl.telemetry.panel import compact
from podrl.telemetry.tables import print_table

STAGES = {
    "env": "environments",
    "act": "acting",
    "transfer": "transfer",
    "learn": "learning",
    "plain": "plain loop",
    "end_to_end": "end to end",
}


def show_benchmark(console: Console, report: Mapping[str, Any]) -> None:
    """Prints the report of `benchmark.measure`."""
    for line in _heading(report):
        console.print(line, soft_wrap=True)
    print_table(console, make_stages_table(report, plain=not console.is_terminal))
    for line in conclusions(report):
        console.print(line, soft_wrap=True)


def show_config_comparison(console: Console, report: Mapping[str, Any]) -> None:
    """Prints the report of `benchmark.compare`."""
    for name, run in report["runs"].items():
        title, layout = _heading(run)
        console.print(f"{name}: {title}", soft_wrap=True)
        console.print(f"{layout}; compile time: {run['compile_s']:.1f} s", soft_wrap=True)
        console.print(_update_memory(run), soft_wrap=True)
    console.print(f"B differs in {_differences(report['runs'])}.", soft_wrap=True)
    print_table(console, make_comparison_table(report, plain=not console.is_terminal))
    console.print(_machine(report["machine"]), soft_wrap=True)
    console.print(
        f"{_repeats(report)}, in turns A B A B; the ratio is taken inside each. End to end: without warm-up and "
        "metrics, with the checkpoints that are due.",
        soft_wrap=True,
    )


def show_memory(console: Console, report: Mapping[str, Any]) -> None:
    """Prints the report of `benchmark.measure_memory`."""
    for line in (*_heading(report), _update_memory(report)):
        console.print(line, soft_wrap=True)


def show_jobs(console: Console, report: Mapping[str, Any]) -> None:
    """Prints the report of `job_benchmark.measure_jobs`."""
    name, env_id, devices = report["config"]["name"], report["config"]["env"]["id"], report["devices"]
    console.print(f"{name} on {env_id}, {devices} devices in all", soft_wrap=True)
    print_table(console, make_jobs_table(report, plain=not console.is_terminal))
    per_step = sum(report["traffic_bytes"].values()) / report["env_steps_per_update"]
    console.print(
        f"Between devices, each update: {describe_traffic(report['traffic_bytes'])}; parameters: "
        f"{describe_bytes(report['parameter_bytes'])}. That is {per_step:,.1f} bytes an env step.",
        soft_wrap=True,
    )
    console.print(_machine(report["machine"]), soft_wrap=True)
    console.print(
        f"{_repeats(report)}, in turns; the ratio is taken inside each. Whole jobs, without warm-up and checkpoints.",
        soft_wrap=True,
    )


def make_jobs_table(report: Mapping[str, Any], *, plain: bool) -> Table:
    """A row per number of processes, with median, min and max over the repeats."""
    table = _empty_table("processes", ("devices of each", "env steps/s", "of the first"), plain=plain)
    between = _between(plain)
    for count, job in report["jobs"].items():
        rate, ratio = _rate(job["env_steps_per_second"], between), _ratio(job["of_first"], between)
        table.add_row(str(count), str(report["devices"] // count), rate, ratio)
    return table


def make_stages_table(report: Mapping[str, Any], *, plain: bool) -> Table:
    """A row per stage, with median, min and max over the repeats; `plain` is Markdown, one line per row."""
    table = _empty_table("stage", ("env steps/s", "frames/s", "core-us/step", "cores"), plain=plain)
    between = _between(plain)
    for name, stage in report["stages"].items():
        steps, cost = stage["env_steps_per_second"], stage["core_seconds_per_env_step"]
        table.add_row(
            STAGES[name],
            _rate(steps, between),
            _rate(stage["frames_per_second"], between),
            f"{_micro(cost['median'])}{between}({_micro(cost['min'])} to {_micro(cost['max'])})",
            f"{cost['median'] * steps['median']:.2f}",
            style="bold" if name == "end_to_end" else None,
        )
    return table


def make_comparison_table(report: Mapping[str, Any], *, plain: bool) -> Table:
    """A row per run and one with their ratio, with median, min and max over the repeats."""
    table = _empty_table("run", ("env steps/s", "frames/s"), plain=plain)
    between = _between(plain)
    columns = ("env_steps_per_second", "frames_per_second")
    for name, run in report["runs"].items():
        table.add_row(f"{name}: {run['config']['name']}", *(_rate(run[column], between) for column in columns))
    table.add_row("B / A", *(_ratio(report["ratio"][column], between) for column in columns), style="bold")
    return table


def conclusions(report: Mapping[str, Any]) -> Iterator[str]:
    """What the table means, and what it was measured on: one line each."""
    if report["config"]["env"].get("workers"):
        yield "Environments step in processes of their own (env.workers), whose core time is not in the table."
    elif report["end_to_end"].get("bound") == "cores":
        yield limit_line(report["stages"])
    yield from bound_lines(report["end_to_end"], report["machine"]["cores"])
    spent, memory = report["first_update_s"], report["peak_memory_bytes"]
    yield (
        f"Time to first update: {spent['total']:.1f} s: import {spent['import']:.1f}, compile {spent['compile']:.1f}, "
        f"rest {spent['rest']:.1f}."
    )
    device = "" if memory["device"] is None else f", {describe_bytes(memory['device'])} on the fullest device"
    yield f"Peak memory of a run: {describe_bytes(memory['process'])}{device}."
    yield _update_memory(report)
    yield _machine(report["machine"])
    yield (
        f"{_repeats(report)}, interleaved. Core-us: CPU microseconds of all threads. Cores: how many were busy. End to "
        "end: without warm-up and metrics, with the checkpoints that are due."
    )


def bound_lines(shares: Mapping[str, Any], cores: int) -> Iterator[str]:
    """What end-to-end is of the bound that counts; then of the slowest stage, where that is not it.

    Where environments are inside the compiled program: what it is of the plain loop.
    """
    if "of_plain" in shares:
        if shares["of_plain"] is None:
            yield "There is no plain loop of this environment and network to compare with."
        else:
            yield f"End to end is {_ratio(shares['of_plain'], ' ')} of a plain loop of this environment and network."
        return
    rate = f"{_rate(shares['bound_env_steps_per_second'], ' ')} env steps/s"
    reach = f"End to end is {_percent(shares['of_bound'])} of its bound,"
    slowest = STAGES[shares["slowest_stage"]]
    if shares["bound"] == "cores":
        yield f"{reach} the cores: at {rate} the stages' core-seconds fill the {cores} cores that they share."
        others, left = shares["others_cores"]["median"], _percent(shares["of_core_bound_left"])
        yield f"Others, here or on its host, had {others:.2f} of the cores meanwhile; of what they left, it is {left}."
        yield f"For information: {_percent(shares['of_slowest_stage'])} of the slowest stage alone, {slowest}."
    else:
        yield f"{reach} the slowest stage alone: {slowest} with {rate}."


def limit_line(stages: Mapping[str, Any]) -> str:
    """Who takes the cores that all stages share."""
    costs = {name: stage["core_seconds_per_env_step"]["median"] for name, stage in stages.items()}
    costs.pop("end_to_end")
    shares = sorted(((cost / sum(costs.values()), STAGES[name]) for name, cost in costs.items()), reverse=True)
    (most, largest), *others = shares
    rest = ", ".join(f"{name} {share:.0%}" for share, name in others)
    return f"What limits it: {largest}, with {most:.0%} of the core time that the stages take; {rest}."


def _heading(run: Mapping[str, Any]) -> tuple[str, str]:
    """Which run, and how its environments are dealt out."""
    config, layout = run["config"], run["layout"]
    return (
        f"{config['name']} on {config['env']['id']}, {run['topology']}",
        f"environments: {config['actors']['num_envs']}; actor threads: {layout['num_actors']}; pools per thread: "
        f"{layout['pools_per_actor']}; environments per pool: {layout['envs_per_pool']}; C++ threads per pool: "
        f"{layout['env_threads']}; unroll length: {config['actors']['unroll_length']} env steps; frames per env step: "
        f"{run['frames_per_step']}",
    )


def _update_memory(run: Mapping[str, Any]) -> str:
    """What is split, and what the update takes on a device."""
    found = run["update_memory_bytes"]
    memory = "not told by this backend" if found is None else UpdateMemory(**found).describe()
    traffic = describe_traffic(run["update_traffic_bytes"])
    return f"Update, on each learner device: {memory}; between devices: {traffic}; {run['parameters']}."


def _machine(machine: Mapping[str, Any]) -> str:
    return (
        f"Machine: {machine['device_kind']} devices: {machine['devices']}; cores: {machine['cores']}; load average "
        f"before the start: {machine['load_average']:.1f}; float32 matmul, n={machine['matmul_n']}: "
        f"{_rate(machine['matmul_gflops'], ' ')} GFLOP/s; memory copy: "
        f"{_rate(machine['copy_gigabytes_per_second'], ' ')} GB/s read and written."
    )


def _repeats(report: Mapping[str, Any]) -> str:
    return f"Median (min to max) of {report['repeats']} repeats of {report['seconds']:g} s"


def _differences(runs: Mapping[str, Mapping[str, Any]]) -> str:
    """`agent.micro_batches (1, 8), seed (1, 2)`: the keys whose values differ, with A's and B's."""
    found = differences(runs["A"]["config"], runs["B"]["config"])
    return ", ".join(f"{key} ({a}, {b})" for key, (a, b) in found.items()) or "nothing"


def _empty_table(first: str, headings: tuple[str, ...], *, plain: bool) -> Table:
    table = Table(box=box.MARKDOWN if plain else box.SIMPLE_HEAD)
    table.add_column(first)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _between(plain: bool) -> str:
    """What separates a median from its range."""
    return " " if plain else "\n"


def _rate(rate: Mapping[str, float], between: str) -> str:
    return f"{rate['median']:,.0f}{between}({compact(rate['min'])} to {compact(rate['max'])})"


def _ratio(ratio: Mapping[str, float], between: str) -> str:
    return f"{ratio['median']:.3f}{between}({ratio['min']:.3f} to {ratio['max']:.3f})"


def _micro(seconds: float) -> str:
    """Microseconds, to about three digits."""
    return f"{seconds * 1e6:,.1f}" if seconds < 100e-6 else f"{seconds * 1e6:,.0f}"


def _percent(share: Mapping[str, float]) -> str:
    return f"{share['median']:.0%} ({share['min']:.0%} to {share['max']:.0%})"
