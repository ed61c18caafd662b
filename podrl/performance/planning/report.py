"""Plans and predictions as a person reads them."""

from collections.abc import Iterator, Mapping, Sequence
import math
from typing import Any

from rich.console import Console

from podrl.config.units import describe_amount, describe_bytes, describe_number, describe_seconds, describe_share
from podrl.learning.update_cost import describe_traffic
from podrl.performance.benchmark.instruments import QUIET_LOAD
from podrl.performance.composition import COLLECT, PROGRAM, STAGE_KEYS
from podrl.performance.planning.model import LIMITS
from podrl.performance.planning.plans import Fit, Misfit, Plan, price_of_billion_frames
from podrl.performance.planning.slices import Slice
from podrl.runtime.tables import describe_spread, print_lines, print_rows

_NO_GAIN = 1.01  # A split that is faster by less is no advice.
_LIMITS_MEASURED = {COLLECT: "the actors", "transfer": LIMITS["transfer"], "learn": "learning", "cores": "the cores"}


def show_plan(console: Console, plan: Plan, price_per_chip_hour: float | None) -> None:
    """Prints a plan."""
    print_lines(console, _heading(plan))
    if isinstance(plan.found, Misfit):
        print_lines(console, _misfit_lines(plan.found))
        return
    _show_memory_of(console, plan.found)
    found = plan.found.prediction
    rows = [
        (LIMITS[name], describe_seconds(seconds), describe_share(seconds / found.update_s))
        for name, seconds in found.stages.items()
        if seconds
    ]
    print_rows(console, ("limit (modelled)", "an update", "share"), rows, bold=[LIMITS[found.limit]])
    print_lines(console, _conclusions(plan.found, plan.slice, price_per_chip_hour))
    if len(plan.found.weak) > 1:
        headings = ("hosts", "weak: env steps/s", "efficiency", "strong: env steps/s", "efficiency", "strong limit")
        print_rows(console, headings, _scaling_rows(plan.found))
    print_lines(console, ["Rests on: " + "; ".join(plan.assumptions) + "."])


def show_summary(console: Console, plans: Sequence[Plan]) -> None:
    """Prints one row for each of several plans."""
    rows = []
    for plan in plans:
        about = (plan.slice.name, str(plan.slice.chips), str(plan.slice.hosts))
        if isinstance(plan.found, Misfit):
            rows.append((*about, "no", *["-"] * 5))
            continue
        found, fits = plan.found.prediction, "yes" if plan.found.run.compiled else "likely"
        rates = (describe_number(found.updates_per_s), f"{found.env_steps_per_s:,.0f}", f"{found.frames_per_s:,.0f}")
        rows.append((*about, fits, *rates, describe_share(found.of_peak, 1), LIMITS[found.limit]))
    headings = ("topology", "chips", "hosts", "fits", "updates/s", "env steps/s", "frames/s", "of peak", "limit")
    print_rows(console, headings, rows)


def show_measured(console: Console, rows: Sequence[Mapping[str, Any]], cores: float, load_average: float = 0.0) -> None:
    """Prints predictions from measured stages, with the measured run where a row has it."""
    names = [name for name in (COLLECT, *STAGE_KEYS, PROGRAM) if any(name in row["wall_s"] for row in rows)]
    table = []
    for row in rows:
        cells = [describe_number(row["wall_s"].get(name, 0.0) * 1e6, 1) for name in names]
        limit = "the compiled program" if PROGRAM in row["wall_s"] else _LIMITS_MEASURED[row["limit"]]
        cells += [describe_number(sum(row["core_s"].values()) * 1e6, 1), limit]
        measured = ["-", "-"]
        if "measured" in row:  # The error of the median repeat, and of all: `+5% (-2% to +9%)`.
            error = {"median": row["error"], "min": row["error_min"], "max": row["error_max"]}
            measured = [f"{row['measured']:,.0f}", describe_spread(error, "+.0%")]
        table.append((row["run"], *cells, f"{row['predicted']:,.0f}", *measured))
    of_stages = [f"{name}: us" for name in names]
    headings = ("run", *of_stages, "core-us", "limit", "predicted env steps/s", "measured", "error")
    print_rows(console, headings, table, texts=("run", "limit"))
    told = [
        "Each stage was measured alone: microseconds of the wall clock for an env step of one process. Core-us: CPU "
        "microseconds of all stages together. 2 x 1 is two processes of one device. The prediction leaves out what "
        "stages take from each other in caches and memory."
    ]
    if load_average > QUIET_LOAD * cores:
        told.append(
            f"This machine was busy in the minute before (load average {load_average:.1f}): unless that was a command "
            "of your own that has ended, errors may be due to it."
        )
    print_lines(console, told)


def _heading(plan: Plan) -> Iterator[str]:
    slice_, host = plan.slice, plan.slice.host
    hosts = f"{slice_.hosts:,} host{'s' if slice_.hosts > 1 else ''} of {slice_.chips_per_host}"
    chips = f"{slice_.chips:,} x {slice_.chip.title}, {hosts}, {host.vcpus} vCPUs each"
    yield f"{plan.name} on {plan.env_id}, {slice_.name}: {chips}"
    if plan.note:
        yield plan.note
    if isinstance(plan.found, Misfit):
        return
    run, config = plan.found.run, plan.found.run.config
    split = f"of each host's devices {_split_text(run.actors, run.learners, run.devices)}"
    yield (
        f"{'environments inside the compiled program' if run.is_fused else split}; environments: "
        f"{config.actors.num_envs:,}; unroll length: {config.actors.unroll_length}; env steps per update: "
        f"{config.env_steps_per_update:,}; networks in {config.network.compute_dtype}; "
        + (f"compiled in {run.compile_s:.0f} s" if run.compiled else "counted, not compiled")
    )


def _show_memory_of(console: Console, fit: Fit) -> None:
    run, update, act = fit.run, fit.run.update, fit.run.act
    rollouts = run.learner_bytes - run.state_bytes - update.temporary_bytes
    sizes = {"learner": (run.state_bytes, rollouts, update.temporary_bytes, run.learner_bytes)}
    if act is not None:
        unrolls = run.actor_bytes - run.acting_bytes - act.temporary_bytes
        sizes["actor"] = (run.acting_bytes, unrolls, act.temporary_bytes, run.actor_bytes)
    there = describe_bytes(fit.machine.memory_bytes)
    rows = [[name, *map(describe_bytes, found), there] for name, found in sizes.items()]
    if act is not None and run.shares_devices:
        rows.append(["both", "", "", "", describe_bytes(run.peak_bytes), there])
    how = "compiled" if run.compiled else "counted"
    headings = (f"memory of a device ({how})", "state", "rollouts", "temporaries", "all", "there are")
    print_rows(console, headings, rows)
    if run.replay_bytes:
        print_lines(console, [f"Of the state: replay {describe_bytes(run.replay_bytes)} on each learner device."])


def _conclusions(fit: Fit, slice_: Slice, price_per_chip_hour: float | None) -> Iterator[str]:
    run, found, need = fit.run, fit.prediction, fit.needs
    yield (
        f"Predicted: {describe_number(found.updates_per_s)} updates/s, {found.env_steps_per_s:,.0f} env steps/s, "
        f"{found.frames_per_s:,.0f} frames/s. What binds: {LIMITS[found.limit]}. Devices learn "
        f"{describe_share(found.learner_busy)} of the time and act {describe_share(found.actor_busy)}; "
        f"{describe_share(found.of_peak, 2)} of the chips' peak."
    )
    traffic = describe_traffic({kind: round(size) for kind, size in run.update.traffic.items()})
    yield (
        f"An update, on each learner device: {describe_amount(run.update.flops, 'FLOP')}, "
        f"{describe_amount(run.update.bytes_accessed, 'B')} of memory traffic; between devices: {traffic}."
    )
    if run.act is not None:
        counts = (need.vcpus, fit.machine.cores, need.environments)
        wanted, there, under_way = (describe_number(count, 0) for count in counts)
        few = f" (it has {run.envs_of_host:,.0f}: more actors.num_envs)" if run.envs_of_host < need.environments else ""
        yield (
            f"To keep its devices at 95% of what they can do a host needs {wanted} vCPUs for environments (it has "
            f"{there} for them), about {under_way} environments under way{few}, {need.env_steps_per_s:,.0f} env "
            f"steps/s.{_worker_hosts(fit)} Acting only with the newest parameters (lag 0) would give "
            f"{fit.without_lag.env_steps_per_s:,.0f} env steps/s in all."
        )
        actors, learners, best = fit.splits[0]
        gain = best.env_steps_per_s / found.env_steps_per_s
        now = f"{gain:.2f} times as fast, {best.env_steps_per_s:,.0f} env steps/s"
        better = f"{_split_text(actors, learners, run.devices)} ({now})"
        yield f"Best split of a host's {run.devices} devices: {'as it is' if gain < _NO_GAIN else better}."
    if price_per_chip_hour is not None:
        hours = describe_number(1e9 / found.frames_per_s / 3600)
        price = describe_number(price_of_billion_frames(found, slice_, price_per_chip_hour))
        yield f"A billion frames: {hours} hours, {price} at {price_per_chip_hour:g} per chip and hour."


def _worker_hosts(fit: Fit) -> str:
    """What the vCPUs that a host needs are in hosts of environment workers; empty where it has none."""
    need, machine = fit.needs, fit.machine
    if not need.worker_hosts:
        return ""
    share = describe_share(need.wire_bytes_per_s / machine.wire_bytes_per_s)
    return (
        f" These are {need.worker_hosts:,} hosts of environment workers with "
        f"{describe_number(machine.worker_cores, 0)} vCPUs each, which would send it "
        f"{describe_amount(need.wire_bytes_per_s, 'B')}/s, {share} of its network."
    )


def _split_text(actors: int, learners: int, devices: int) -> str:
    return "all act and learn" if actors == learners == devices else f"{actors} act, {learners} learn"


def _scaling_rows(fit: Fit) -> Iterator[tuple[str, ...]]:
    of_strong = {hosts: (found, share) for hosts, found, share in fit.strong}
    for hosts, weak, weak_share in fit.weak:
        cells = (f"{hosts:,}", f"{weak.env_steps_per_s:,.0f}", f"{weak_share:.0%}")
        if hosts in of_strong:
            strong, share = of_strong[hosts]
            yield *cells, f"{strong.env_steps_per_s:,.0f}", f"{share:.0%}", LIMITS[strong.limit]
        else:
            yield *cells, "does not fit", "-", "-"


def _misfit_lines(misfit: Misfit) -> Iterator[str]:
    shortage = misfit.shortage
    yield (
        f"Does not fit: needs {_size(shortage.needed_bytes)} of the {_size(shortage.available_bytes)} of a device's "
        f"memory that programs may use." + (f" The compiler says: {shortage.reason}" if shortage.reason else "")
    )
    for remedy in misfit.remedies:
        if remedy.run is not None:
            peak = _size(remedy.run.peak_bytes)
            yield f"  {remedy.arguments} fits, with {peak} (tried): {remedy.effect}."
        elif remedy.shortage is not None:
            yield f"  {remedy.arguments} is not enough: needs {_size(remedy.shortage.needed_bytes)} (tried)."
        else:
            yield f"  {remedy.arguments} may help (not tried): {remedy.effect}."
    if not misfit.remedies:
        yield "  Use more chips, fewer environments (actors.num_envs) or shorter unrolls (actors.unroll_length)."


def _size(size_bytes: float) -> str:
    return "an unknown amount" if math.isnan(size_bytes) else describe_bytes(size_bytes)
