"""What samples say together: rates over repeats, and a whole run against another run, its stages or a plain loop."""

from collections.abc import Mapping, Sequence
import dataclasses
import statistics
from typing import Any

from podrl.performance.benchmark.instruments import StageTime, spread
from podrl.performance.composition import COLLECT, OF_REPLAY, Overlap, compose

END_TO_END = "end_to_end"
PLAIN = "plain"
LOCAL = "local"  # Environments in this process, where the run's step in environment workers.


def summarize_samples(samples: Sequence[StageTime], frames_per_step: int) -> dict[str, Any]:
    """A stage's rates and costs over its repeats."""
    rates = [sample.env_steps_per_second for sample in samples]
    return {
        "env_steps_per_second": spread(rates),
        "frames_per_second": spread([rate * frames_per_step for rate in rates]),
        "core_seconds_per_env_step": spread([sample.core_seconds_per_env_step for sample in samples]),
        "others_cores": spread([sample.others_cores for sample in samples]),
        "wire_bytes_per_env_step": spread([sample.wire_bytes / sample.env_steps for sample in samples]),
        "samples": [dataclasses.asdict(sample) for sample in samples],
    }


def relate_runs(
    samples: Mapping[str, Sequence[StageTime]], frames_per_step: Mapping[str, int]
) -> dict[str, dict[str, float]]:
    """Run B's rates as multiples of run A's, taken in each repeat; the two differ where frames per step do."""
    a, b = ([sample.env_steps_per_second for sample in samples[name]] for name in ("A", "B"))
    frames = [rate * frames_per_step["B"] / frames_per_step["A"] for rate in b]
    return {"env_steps_per_second": fractions(b, a), "frames_per_second": fractions(frames, a)}


def relate_to_stages(samples: Mapping[str, Sequence[StageTime]], overlap: Overlap, cores: float) -> dict[str, Any]:
    """What end-to-end is of what the other stages allow, environments and acting each alone.

    Returns:
        `bound`, what decides most often (see `podrl.performance.composition.Composed`), its rate
        `bound_env_steps_per_second`, and end-to-end's fraction `of_bound`; the same of the slowest stage (by median);
        `others_cores`, that others had during end-to-end, and the fraction `of_bound_left` of the bound that is left
        without those; and `of_plain`, end-to-end as a multiple of the plain loop, None without one. All fractions are
        taken in each repeat.
    """
    rates = {name: [sample.env_steps_per_second for sample in repeats] for name, repeats in samples.items()}
    whole, plain = rates.pop(END_TO_END), rates.pop(PLAIN, None)
    for name in (COLLECT, LOCAL, *OF_REPLAY):
        rates.pop(name, None)
    slowest = min(rates, key=lambda name: statistics.median(rates[name]))
    limits, bounds, bounds_left = [], [], []
    for index, sample in enumerate(samples[END_TO_END]):
        wall_s = {name: 1 / found[index] for name, found in rates.items()}
        core_s = sum(samples[name][index].core_seconds_per_env_step for name in rates)
        # Time that others had comes in ticks, so a short repeat may seem to have had less than it used.
        left = max(cores - sample.others_cores, sample.core_s / sample.wall_s)
        found = compose(wall_s, overlap, core_s=core_s, cores=cores)
        limits.append(found.limit)
        bounds.append(1 / found.seconds)
        bounds_left.append(1 / compose(wall_s, overlap, core_s=core_s, cores=left).seconds)
    return {
        "bound": statistics.mode(limits),
        "bound_env_steps_per_second": spread(bounds),
        "of_bound": fractions(whole, bounds),
        "slowest_stage": slowest,
        "of_slowest_stage": fractions(whole, rates[slowest]),
        "others_cores": spread([sample.others_cores for sample in samples[END_TO_END]]),
        "of_bound_left": fractions(whole, bounds_left),
        "of_plain": plain and fractions(whole, plain),
    }


def fractions(rates: Sequence[float], bounds: Sequence[float]) -> dict[str, float]:
    """Rates as fractions of others, taken in each repeat."""
    return spread([rate / bound for rate, bound in zip(rates, bounds, strict=True)])
