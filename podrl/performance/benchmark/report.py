"""What `podrl.performance.benchmark.measure` measured as a person reads it: a table, and a line for each conclusion."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console

from podrl.config.config_dict import differences
from podrl.config.units import describe_bytes
from podrl.learning.update_cost import UpdateMemory, describe_traffic
from podrl.performance.composition import COLLECT, COPY, INSERT, OF_REPLAY, PROGRAM, SAMPLE
from podrl.runtime.tables import describe_rates, describe_spread, print_lines, print_rows

STAGES = {
    "env": "environments",
    "local": "environments here",
    "act": "acting",
    "transfer": "transfer",
    "learn": "learning",
    COLLECT: "actors",
    PROGRAM: "compiled program",
    INSERT: "replay: insert",
    SAMPLE: "replay: sample",
    COPY: "as many bytes copied",
    "plain": "plain loop",
    "end_to_end": "end to end",
}


def show_benchmark(console: Console, report: Mapping[str, Any]) -> None:
    """Prints the report of `measure.measure_run`."""
    print_lines(console, _heading(report))
    show_stages(console, report["stages"])
    print_lines(console, conclusions(report))


def show_stages(console: Console, stages: Mapping[str, Any]) -> None:
    """Prints a row per stage, with median, min and max over the repeats."""
    plain = not console.is_terminal
    rows = []
    for name, stage in stages.items():
        steps, cost = stage["env_steps_per_second"], stage["core_seconds_per_env_step"]
        rates = [describe_rates(each, plain=plain) for each in (steps, stage["frames_per_second"])]
        micro = describe_spread({key: 1e6 * value for key, value in cost.items()}, ",.1f", plain=plain)
        rows.append((STAGES[name], *rates, micro, f"{cost['median'] * steps['median']:.2f}"))
    headings = ("stage", "env steps/s", "frames/s", "core-us/step", "cores")
    print_rows(console, headings, rows, bold=[STAGES["end_to_end"]])


def show_config_comparison(console: Console, report: Mapping[str, Any]) -> None:
    """Prints the report of `measure.compare_configs`: a row per run and one with their ratio."""
    for name, run in report["runs"].items():
        title, layout = _heading(run)
        compiled = f"{layout}; compile time: {run['compile_s']:.1f} s"
        print_lines(console, [f"{name}: {title}", compiled, _update_memory(run)])
    print_lines(console, [f"B differs in {_differences(report['runs'])}."])
    plain, columns = not console.is_terminal, ("env_steps_per_second", "frames_per_second")
    rows = [
        (f"{name}: {run['config']['name']}", *(describe_rates(run[column], plain=plain) for column in columns))
        for name, run in report["runs"].items()
    ]
    rows.append(("B / A", *(describe_spread(report["ratio"][column], ".3f", plain=plain) for column in columns)))
    print_rows(console, ("run", "env steps/s", "frames/s"), rows, bold=["B / A"])
    how = (
        f"{_repeats(report)}, in turns A B A B; the ratio is taken inside each. End to end: without warm-up and "
        "metrics, with the checkpoints that are due."
    )
    print_lines(console, [_machine(report["machine"]), how])


def show_memory(console: Console, report: Mapping[str, Any]) -> None:
    """Prints the report of `measure.measure_memory`."""
    print_lines(console, [*_heading(report), _update_memory(report)])


def conclusions(report: Mapping[str, Any]) -> Iterator[str]:
    """What the table means, and what it was measured on: one line each."""
    if "local" in report["stages"]:
        yield wire_line(report["stages"])
    if report["end_to_end"]["bound"] == "cores" and "env" in report["stages"]:
        yield limit_line(report["stages"])
    cores, in_turn = report["machine"]["cores"], report["overlap"]["in_turn"]
    yield from bound_lines(report["end_to_end"], cores, in_turn=in_turn)
    if report["replay"]:
        yield replay_line(report)
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
        f"{_repeats(report)}, interleaved. Core-us: CPU microseconds of all threads. Cores: how many were busy. "
        "Actors: environments, acting and hand-off together, without a learner. "
        "End to end: without warm-up and metrics, with the checkpoints that are due."
    )


def bound_lines(found: Mapping[str, Any], cores: int, *, in_turn: bool = False) -> Iterator[str]:
    """What end-to-end is of what its stages allow, and of a plain loop where there is one."""
    rate = f"{describe_rates(found['bound_env_steps_per_second'])} env steps/s"
    reach = f"End to end is {describe_spread(found['of_bound'], '.0%')} of its bound,"
    slowest = STAGES[found["slowest_stage"]]
    if found["bound"] == "cores":
        yield f"{reach} the cores: at {rate} the stages' core-seconds fill the {cores} cores that they share."
    elif in_turn:
        yield f"{reach} its stages one after the other: {rate}."
    else:
        yield f"{reach} the slowest stage alone: {slowest} with {rate}."
    others, left = found["others_cores"]["median"], describe_spread(found["of_bound_left"], ".0%")
    if found["of_bound_left"] != found["of_bound"]:
        yield f"Others, here or on its host, had {others:.2f} of the cores meanwhile; of what they left, it is {left}."
    if found["bound"] == "cores":
        share = describe_spread(found["of_slowest_stage"], ".0%")
        yield f"For information: {share} of the slowest stage alone, {slowest}."
    if found["of_plain"] is not None:
        share = describe_spread(found["of_plain"], ".3f")
        yield f"End to end is {share} of a plain loop of this environment and network."


def replay_line(report: Mapping[str, Any]) -> str:
    """What replay moves in an update, in which time of the learner's devices, and what that is of learning."""
    found = report["replay"]

    def tell(name: str) -> str:
        ms, of_copy = 1e3 * found[f"{name}_s"]["median"], describe_spread(found[f"{name}_of_copy"], ".0%")
        return f"{name}s {describe_bytes(found[f'{name}_bytes'])} in {ms:,.2f} ms, at {of_copy} of the rate of a copy"

    whole, share = STAGES[PROGRAM if PROGRAM in report["stages"] else "learn"], describe_spread(found["share"], ".1%")
    return f"Replay, in each update: {tell(INSERT)}; {tell(SAMPLE)}. Both take {share} of the time of the {whole}."


def wire_line(stages: Mapping[str, Any]) -> str:
    """What it takes that environments step in environment workers."""
    remote, here = stages["env"], stages["local"]
    more, sent = (
        1e6 * (remote["core_seconds_per_env_step"]["median"] - here["core_seconds_per_env_step"]["median"]),
        remote["wire_bytes_per_env_step"]["median"],
    )
    return (
        f"Environment workers: a step takes {more:+,.1f} core-us beside a step here, and {sent:,.1f} bytes on the wire."
    )


def limit_line(stages: Mapping[str, Any]) -> str:
    """Who takes the cores that all stages share."""
    costs = {name: stage["core_seconds_per_env_step"]["median"] for name, stage in stages.items()}
    costs = {
        name: cost for name, cost in costs.items() if name not in ("end_to_end", "plain", "local", COLLECT, *OF_REPLAY)
    }
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
        f"{describe_rates(machine['matmul_gflops'])} GFLOP/s."
    )


def _repeats(report: Mapping[str, Any]) -> str:
    return f"Median (min to max) of {report['repeats']} repeats of {report['seconds']:g} s"


def _differences(runs: Mapping[str, Mapping[str, Any]]) -> str:
    """`topology.micro_batches (1, 8), seed (1, 2)`: the keys whose values differ, with A's and B's."""
    found = differences(runs["A"]["config"], runs["B"]["config"])
    return ", ".join(f"{key} ({a}, {b})" for key, (a, b) in found.items()) or "nothing"
