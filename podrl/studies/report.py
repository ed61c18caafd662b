"""The report of a study on how a config scales."""

from collections.abc import Mapping, Sequence
from html import escape
from string import Template
from typing import Any

from podrl.studies.conclusions import caveats, conclude, with_interval
from podrl.studies.folder import WORDS
from podrl.studies.page import embed, fill_page, tabulate, wrap_each
from podrl.studies.summary import PointSummary, RunRecord

CAPTIONS = {
    "throughput": "Throughput and efficiency. Dots are runs, lines join the means over seeds, bars are 95 % intervals "
    "where there are several seeds; dashed is the ideal, the smallest point's rate in proportion to the devices, of "
    "which efficiency is the fraction that was reached; dotted, where there is any, is what podrl's planner predicted. "
    "The axes of devices and rates are logarithmic.",
    "time": "Where the time of the threads goes; 2x4 are two processes of four devices each. Light grey is waiting: "
    "<code>wait_rollouts</code>, the learner for actors; <code>wait_params</code>, actors for the learner.",
}
_FOUND = Template("""$figures
<h2>Points</h2>
<div class="wide">$table</div>
<p class="note">$files</p>
<h2>How to read this</h2>
<ul>$caveats</ul>""")


def make_page(
    manifest: Mapping[str, Any],
    records: Sequence[RunRecord],
    summaries: Sequence[PointSummary],
    *,
    figures: Mapping[str, bytes],
    platform: str,
    files: Sequence[str],
) -> str:
    """The page; `figures` are PNGs by name, `files` the names of the tables beside it."""
    starts, definition, config = manifest["starts"], manifest["definition"], manifest["config"]
    answer = conclude(summaries, starts[0], platform, definition["place"])
    notes = caveats(records, summaries, definition["seeds"], starts)
    listed = "Every run, with all that was measured, is a row of {}; these points are in {}.".format(*files)
    found = _FOUND.substitute(
        figures="".join(embed(name, image, CAPTIONS[name]) for name, image in figures.items()),
        table=tabulate([_cells(summary) for summary in summaries]),
        files=escape(listed),
        caveats=wrap_each("li", notes),
    )
    return fill_page(
        manifest,
        records,
        title=f"How {config['name']} on {config['env']['id']} scales",
        subtitle=_subtitle(records, starts[0]["started"]),
        answer=filter(None, answer),
        found=found,
        facts=_facts(manifest),
    )


def _subtitle(records: Sequence[RunRecord], begun: str) -> str:
    words = [record.status.word for record in records]
    points = len({record.trial.point.name for record in records})
    counts = [f"{words.count(word)} {word}" for word in WORDS if word in words]
    return f"{points} points, {len(words)} runs: {', '.join(counts)}. Begun {begun}."


def _cells(summary: PointSummary) -> dict[str, str]:
    point, machines = summary.point, summary.point.machines
    return {
        "point": ", ".join(filter(None, [point.scaling, point.series])),
        "slice": machines.slice_type or "",
        "processes x devices": machines.size,
        "environments": f"{point.num_envs:,}",
        "env steps per update": f"{point.config.env_steps_per_update:,}",
        "seeds": str(len(summary.runs)),
        "env steps/s": with_interval(summary.rate),
        "predicted": "" if summary.predicted is None else f"{summary.predicted:,.0f}",
        "speed-up": with_interval(summary.speedup, digits=2),
        "efficiency": with_interval(summary.efficiency, percent=True),
        "lag": "" if summary.lag_mean is None else f"{summary.lag_mean:.2f}",
    }


def _facts(manifest: Mapping[str, Any]) -> dict[str, str]:
    definition, config = manifest["definition"], manifest["config"]
    limits = [f"{definition['steps']:,} env steps"] if definition["steps"] is not None else []
    limits += [f"{definition['seconds']:g} s of training"] if definition["seconds"] is not None else []
    return {
        "config": f"{definition['config']}: {config['agent']['name']} on {config['env']['id']}",
        "each run": " or ".join(limits) or f"{config['total_env_steps']:,} env steps, as the config says",
        "seeds": ", ".join(map(str, definition["seeds"])),
        "launched": {"local": "on this machine", "slurm": "by SLURM", "tpu": "on TPU slices"}[definition["place"]],
    }
