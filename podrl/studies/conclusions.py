"""What a study found, in sentences: computed from its points, and no more than they say."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from podrl.studies.summary import Estimate, PointSummary, RunRecord, lines_of

_FEW_SEEDS = 5
_LOADED = 0.5  # of the cores, before the study began


def conclude(summaries: Sequence[PointSummary], machine: Mapping[str, Any], platform: str, place: str) -> list[str]:
    """The main answer: how each series scales, what limits it, and what more could be expected at all.

    `machine` is what the manifest says of the machine that started the study.
    """
    if not summaries:
        return ["No run is complete, so there is no answer yet."]
    told = [_tell_scaling(key, line) for key, line in lines_of(summaries).items()]
    return [*told, _tell_cores(summaries, machine, platform, place), _tell_time(summaries)]


def caveats(
    records: Sequence[RunRecord],
    summaries: Sequence[PointSummary],
    seeds: Sequence[int],
    starts: Sequence[Mapping[str, Any]],
) -> list[str]:
    """What a reader must know before believing a number; `starts` are those of the manifest."""
    told = [
        "Rates are env steps (the agent's decisions) that the learner consumed over wall time, from the row of metrics "
        "that ends the warm-up (compilation and the first updates of each start) to the last."
    ]
    if len(seeds) == 1:
        told.append("There is one run of each point, so nothing says how far another would differ: no intervals.")
    else:
        few = " With so few they are rough." if len(seeds) < _FEW_SEEDS else ""
        told.append(
            f"Means are of up to {len(seeds)} seeds; intervals are 95 % intervals of the mean over seeds, by Student's "
            f"t.{few}"
        )
    repeated = sum(record.measurement is not None and record.measurement.starts > 1 for record in records)
    if repeated:
        told.append(f"{repeated} run(s) were stopped in between and resumed; the gaps do not count.")
    loaded = [start for start in starts if start["load_average"] > _LOADED * start["cores"]]
    if loaded:
        most = max(start["load_average"] for start in loaded)
        told.append(
            f"The machine that started the study was busy with other work (load average {most:.1f} on "
            f"{_count(loaded[0]['cores'], 'core')}): what ran on it would be faster, and vary less, on an idle one."
        )
    if any(summary.base_rate is None for summary in summaries):
        told.append("Where a series' smallest point has no complete run, there is no speed-up and no efficiency.")
    return told


def with_interval(found: Estimate | None, *, percent: bool = False, digits: int = 0) -> str:
    """`48 % (45 to 51)`; nothing of nothing."""
    if found is None:
        return ""
    found, unit = (found.scaled(100), " %") if percent else (found, "")
    text = f"{found.mean:,.{digits}f}{unit}"
    if found.low is None or found.high is None:
        return text
    return f"{text} ({found.low:,.{digits}f} to {found.high:,.{digits}f})"


def _tell_scaling(key: tuple[str, str], line: Sequence[PointSummary]) -> str:
    scaling, series = key
    first, last = line[0], line[-1]
    opening = f"{scaling.capitalize()} scaling{f', {series}' if series else ''}: "
    if last.speedup is None or last.efficiency is None or first.devices == last.devices:
        return f"{opening}{first.rate.mean:,.0f} env steps/s on {_count(first.devices, 'device')}; nothing to compare."
    return (
        f"{opening}{_machines(last)} make {last.speedup.mean:.2f}x the env steps per second of {_machines(first)} "
        f"({last.rate.mean:,.0f} against {last.base_rate:,.0f}), an efficiency of "
        f"{with_interval(last.efficiency, percent=True)}."
    )


def _tell_cores(summaries: Sequence[PointSummary], machine: Mapping[str, Any], platform: str, place: str) -> str:
    most = max(summary.devices for summary in summaries)
    cores = machine["cores"]
    if platform != "cpu" or place != "local":
        return ""
    if most <= cores:
        return f"All ran on the {_count(cores, 'core')} of one machine, which emulators, actors and learners share."
    return (
        f"The devices are virtual ones that share the {_count(cores, 'core')} of one machine. Beyond {cores} of them "
        f"there is no more hardware, so that the ideal line is out of reach: with {most} devices no more than "
        f"{100 * cores / most:.0f} % of it can be expected, and less where fewer devices keep the cores busy already. "
        "What this shows is the cost of being split, not the gain."
    )


def _tell_time(summaries: Sequence[PointSummary]) -> str:
    """Where the time goes at the largest points, all series together."""
    most = max(summary.devices for summary in summaries)
    largest = [summary for summary in summaries if summary.devices == most]
    parts = []
    for who, spend in (("learner", "the learner's thread spends"), ("actors", "the actors' threads spend")):
        buckets: Counter[str] = Counter()
        for summary in largest:
            buckets.update({bucket: share / len(largest) for bucket, share in summary.buckets(who).items()})
        if top := buckets.most_common(2):
            parts.append(f"{spend} {' and '.join(f'{100 * share:.0f} % in {bucket}' for bucket, share in top)}")
    return f"On {_count(most, 'device')}, {'; '.join(parts)}." if parts else ""


def _machines(summary: PointSummary) -> str:
    machines = summary.point.machines
    each = "" if machines.devices_per_process == 1 else f" of {machines.devices_per_process} devices"
    where = f"{machines.slice_type}: " if machines.slice_type else ""
    return f"{where}{machines.processes} {'process' if machines.processes == 1 else 'processes'}{each}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
