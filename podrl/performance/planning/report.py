"""A plan as a person reads it, and as JSON."""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import math
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from podrl.config.units import describe_amount, describe_bytes, describe_number, describe_seconds, describe_share
from podrl.learning.update_cost import describe_traffic
from podrl.performance.benchmark.instruments import QUIET_LOAD
from podrl.performance.planning.costs import Cost
from podrl.performance.planning.model import LIMITS, Prediction
from podrl.performance.planning.plans import Fit, Misfit, Plan
from podrl.performance.planning.slices import Slice
from podrl.performance.planning.yardsticks import Yardsticks
from podrl.telemetry.tables import print_table

_NO_GAIN = 1.01  # A split that is faster by less is no advice.


def show_plan(console: Console, plan: Plan, price_per_chip_hour: float | None) -> None:
    """Prints a plan."""
    plain = not console.is_terminal
    for line in _heading(plan):
        console.print(line, soft_wrap=True)
    if isinstance(plan.found, Misfit):
        for line in _misfit_lines(plan.found):
            console.print(line, soft_wrap=True)
        return
    print_table(console, _memory_table(plan.found, plain=plain))
    print_table(console, _stage_table(plan.found.prediction, plain=plain))
    for line in _conclusions(plan.found, plan.slice, price_per_chip_hour):
        console.print(line, soft_wrap=True)
    if len(plan.found.weak) > 1:
        print_table(console, _scaling_table(plan.found, plain=plain))
    console.print("Rests on: " + "; ".join(plan.assumptions) + ".", soft_wrap=True)


def show_summary(console: Console, plans: Sequence[Plan]) -> None:
    """Prints one row for each of several plans."""
    table = _table(
        ("topology", "chips", "hosts", "fits", "updates/s", "env steps/s", "frames/s", "of peak", "limit"),
        plain=not console.is_terminal,
    )
    for plan in plans:
        about = (plan.slice.name, str(plan.slice.chips), str(plan.slice.hosts))
        if isinstance(plan.found, Misfit):
            table.add_row(*about, "no", *["-"] * 5)
            continue
        found, fits = plan.found.prediction, "yes" if plan.found.run.compiled else "likely"
        rates = (describe_number(found.updates_per_s), f"{found.env_steps_per_s:,.0f}", f"{found.frames_per_s:,.0f}")
        table.add_row(*about, fits, *rates, describe_share(found.of_peak, 1), LIMITS[found.limit])
    print_table(console, table)


def show_local(
    console: Console, rows: Sequence[Mapping[str, Any]], yardsticks: Yardsticks, load_average: float = 0.0
) -> None:
    """Prints predictions for this machine, with what was measured where a row has it.

    Args:
        console: where to.
        rows: a prediction each.
        yardsticks: that they rest on.
        load_average: before they were measured.
    """
    columns = ("env", "act", "learn", "calls", "reduce")
    headings = ("run", *(f"{name}: core-us" for name in columns), "predicted env steps/s", "measured", "error")
    table = _table(headings, plain=not console.is_terminal)
    for row in rows:
        name = f"{row['config']}, {row['processes']} x {row['devices']}"
        cells = [describe_number(row["core_s"][column] * 1e6, 1) for column in columns]
        measured = (f"{row['measured']:,.0f}", _describe_error(row)) if "measured" in row else ("-", "-")
        table.add_row(name, *cells, f"{row['predicted']:,.0f}", *measured)
    print_table(console, table)
    flops, traffic = (describe_amount(yardsticks.flops, "FLOP/s", 1), describe_amount(yardsticks.bytes, "B/s", 1))
    console.print(
        f"Each core of {yardsticks.cores}, all busy: {flops}, images laid out anew {traffic}; an acting call in a "
        f"run: {yardsticks.call_s * 1e6:,.0f} core-us. A run's core-us are those of an env step; 2 x 1 is two "
        "processes of one device.",
        soft_wrap=True,
    )
    if load_average > QUIET_LOAD * yardsticks.cores:
        console.print(
            f"This machine was busy in the minute before (load average {load_average:.1f}): unless that was a command "
            "of your own that has ended, errors may be due to it.",
            soft_wrap=True,
        )


def _describe_error(row: Mapping[str, Any]) -> str:
    """`+5% (-2% to +9%)`: of the median repeat, and of all."""
    return f"{row['error']:+.0%} ({row['error_min']:+.0%} to {row['error_max']:+.0%})"


def to_json(plan: Plan, price_per_chip_hour: float | None) -> dict[str, Any]:
    """A plan as JSON has it: sizes in bytes, times in seconds; null for what is infinite or not known."""
    return _finite(_to_json(plan, price_per_chip_hour))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _to_json(plan: Plan, price_per_chip_hour: float | None) -> dict[str, Any]:
    about: dict[str, Any] = {
        "config": plan.name,
        "env_id": plan.env_id,
        "topology": plan.slice.name,
        "chips": plan.slice.chips,
        "hosts": plan.slice.hosts,
        "note": plan.note,
        "fits": isinstance(plan.found, Fit),
        "assumptions": list(plan.assumptions),
    }
    if isinstance(plan.found, Misfit):
        shortage = plan.found.shortage
        return about | {
            "needed_bytes": shortage.needed_bytes,
            "available_bytes": shortage.available_bytes,
            "reason": shortage.reason,
            "remedies": [{"arguments": one.arguments, "fits": bool(one.run)} for one in plan.found.remedies],
        }
    found, run = plan.found, plan.found.run
    return about | {
        "compiled": run.compiled,
        "actors_per_host": run.actors,
        "learners_per_host": run.learners,
        "act": run.act and _cost(run.act),
        "update": _cost(run.update),
        "state_bytes": run.state_bytes,
        "machine": dataclasses.asdict(found.machine),
        "prediction": _prediction(found.prediction),
        "synchronous": _prediction(found.synchronous),
        "needs_of_host": dataclasses.asdict(found.needs),
        "splits": [{"actors": a, "learners": n} | _prediction(one) for a, n, one in found.splits],
        "weak": [{"hosts": n, "efficiency": share} | _prediction(one) for n, one, share in found.weak],
        "strong": [{"hosts": n, "efficiency": share} | _prediction(one) for n, one, share in found.strong],
        "price_per_billion_frames": (price_per_chip_hour and _price(found.prediction, plan.slice, price_per_chip_hour)),
    }


def _cost(cost: Cost) -> dict[str, Any]:
    values = dataclasses.asdict(cost) | {"traffic": cost.traffic}
    del values["products"]  # Of CPUs only.
    return values


def _prediction(found: Prediction) -> dict[str, Any]:
    return dataclasses.asdict(found) | {
        "updates_per_s": found.updates_per_s,
        "env_steps_per_s": found.env_steps_per_s,
        "frames_per_s": found.frames_per_s,
    }


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


def _memory_table(fit: Fit, *, plain: bool) -> Table:
    run, whole = fit.run, describe_bytes(fit.machine.memory_bytes)
    how = "compiled" if run.compiled else "counted"
    table = _table((f"memory of a device ({how})", "state", "batch", "temporaries", "all", "there are"), plain=plain)
    update, act = run.update, run.act
    batch = update.argument_bytes - run.state_bytes
    sizes = (run.state_bytes, batch, update.temporary_bytes, update.peak_bytes)
    table.add_row("learner", *map(describe_bytes, sizes), whole)
    if act is not None:
        unrolls = run.actor_bytes - run.parameter_bytes - act.temporary_bytes
        sizes = (run.parameter_bytes, unrolls, act.temporary_bytes, run.actor_bytes)
        table.add_row("actor", *map(describe_bytes, sizes), whole)
        if run.shares_devices:
            table.add_row("both", "", "", "", describe_bytes(run.peak_bytes), whole)
    return table


def _stage_table(found: Prediction, *, plain: bool) -> Table:
    """What each stage takes of an update's time."""
    table = _table(("limit (modelled)", "an update", "share"), plain=plain)
    for name, seconds in found.stages.items():
        if seconds:
            style = "bold" if name == found.limit else None
            share = describe_share(seconds / found.update_s)
            table.add_row(LIMITS[name], describe_seconds(seconds), share, style=style)
    return table


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
        wanted, there, under_way = (
            describe_number(count, 0) for count in (need.vcpus, fit.machine.cores, need.environments)
        )
        few = f" (it has {run.envs_of_host:,.0f}: more actors.num_envs)" if run.envs_of_host < need.environments else ""
        yield (
            f"To keep its devices at 95% of what they can do a host needs {wanted} vCPUs for environments (it has "
            f"{there} for them), about {under_way} environments under way{few}, {need.env_steps_per_s:,.0f} env "
            f"steps/s. Acting only with the newest parameters (lag 0) would give "
            f"{fit.synchronous.env_steps_per_s:,.0f} env steps/s in all."
        )
        actors, learners, best = fit.splits[0]
        gain = best.env_steps_per_s / found.env_steps_per_s
        split = f"Best split of a host's {run.devices} devices:"
        if gain < _NO_GAIN:
            yield f"{split} as it is."
        else:
            now = f"{gain:.2f} times as fast, {best.env_steps_per_s:,.0f} env steps/s"
            yield f"{split} {_split_text(actors, learners, run.devices)} ({now})."
    if price_per_chip_hour is not None:
        hours = describe_number(1e9 / found.frames_per_s / 3600)
        price = describe_number(_price(found, slice_, price_per_chip_hour))
        yield f"A billion frames: {hours} hours, {price} at {price_per_chip_hour:g} per chip and hour."


def _split_text(actors: int, learners: int, devices: int) -> str:
    if actors == learners == devices:
        return "all act and learn"
    return f"{actors} act, {learners} learn"


def _scaling_table(fit: Fit, *, plain: bool) -> Table:
    headings = ("hosts", "weak: env steps/s", "efficiency", "strong: env steps/s", "efficiency", "strong limit")
    table = _table(headings, plain=plain)
    of_strong = {hosts: (found, share) for hosts, found, share in fit.strong}
    for hosts, weak, weak_share in fit.weak:
        cells = (f"{hosts:,}", f"{weak.env_steps_per_s:,.0f}", f"{weak_share:.0%}")
        if hosts not in of_strong:
            table.add_row(*cells, "does not fit", "-", "-")
            continue
        strong, share = of_strong[hosts]
        table.add_row(*cells, f"{strong.env_steps_per_s:,.0f}", f"{share:.0%}", LIMITS[strong.limit])
    return table


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


def _price(found: Prediction, slice_: Slice, price_per_chip_hour: float) -> float:
    """Of a billion frames."""
    return price_per_chip_hour * slice_.chips * 1e9 / found.frames_per_s / 3600


def _table(headings: Sequence[str], *, plain: bool) -> Table:
    table = Table(box=box.MARKDOWN if plain else box.SIMPLE_HEAD)
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="left" if index == 0 else "right", no_wrap=True)
    return table


def _size(size_bytes: float) -> str:
    return "an unknown amount" if math.isnan(size_bytes) else describe_bytes(size_bytes)
