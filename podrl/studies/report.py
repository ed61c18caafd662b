"""The report of a study: one HTML file that needs nothing beside it, neither network nor other files."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
import shlex
from string import Template
from typing import Any

from podrl.studies.conclusions import caveats, conclude, with_interval
from podrl.studies.folder import WORDS
from podrl.studies.summary import Budgets, Estimate, PointSummary, RunRecord

CAPTIONS = {
    "throughput": "Throughput. Dots are runs, lines join the means over seeds, bars are 95 % intervals "
    "where there are several seeds; dashed is the ideal, the smallest point's rate in proportion to the devices. Both "
    "axes are logarithmic.",
    "efficiency": "Efficiency: the fraction of the ideal throughput that was reached.",
    "time": "Where the time of the threads goes; 2 x 4 are two processes of four devices each. Light grey is waiting: "
    "<code>wait_rollouts</code>, the learner for actors; <code>wait_params</code>, actors for the learner.",
    "learning": "Learning: mean return of the newest episodes against time, mean over seeds with a band from the "
    "lowest to the highest.",
}
_PREDICTED = " Dotted is what podrl's planner predicted."
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 72rem; margin: 2rem auto; padding: 0 1.5rem; }
h1 { font-size: 1.7rem; margin-bottom: 0; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
.answer { background: #f3f6fa; border-left: 4px solid #4c72b0; padding: .6rem 1.2rem; }
.failed { background: #fdf1f0; border-left: 4px solid #c44e52; padding: .6rem 1.2rem; }
figure { margin: 1.5rem 0; } img { max-width: 100%; } figcaption, .note { color: #555; font-size: .9rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .85rem; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid #e3e3e3; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } thead th { border-bottom: 2px solid #999; }
pre, code { background: #f5f5f5; font-size: .85rem; } pre { padding: .8rem; white-space: pre-wrap; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.2rem; } dt { color: #555; } dd { margin: 0; }
"""
_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>$title</title>
<style>$style</style>
</head>
<body>
<h1>$title</h1>
<p class="note">$subtitle</p>
<div class="answer">$answer</div>
$failed
$figures
<h2>Points</h2>
<div class="wide">$table</div>
<p class="note">$files</p>
<h2>How to read this</h2>
<ul>$caveats</ul>
<h2>What was run</h2>
<dl>$facts</dl>
<h2>To reproduce it</h2>
<p>From a checkout of podrl at that commit, with those versions:</p>
<pre>$command</pre>
<p>The same command with the same folder goes on where a study was stopped, and does again only what is missing.</p>
</body>
</html>
""")


def make_page(
    manifest: Mapping[str, Any],
    records: Sequence[RunRecord],
    summaries: Sequence[PointSummary],
    budgets: Budgets,
    *,
    figures: Mapping[str, bytes],
    platform: str,
    files: Sequence[str],
) -> str:
    """The page; `figures` are PNGs by name, `files` the names of the tables beside it."""
    starts, definition, config = manifest["starts"], manifest["definition"], manifest["config"]
    answer = conclude(summaries, starts[0], platform, definition["place"])
    notes = caveats(records, summaries, budgets, definition["seeds"], starts)
    title = f"How {config['name']} on {config['env']['id']} scales"
    predicted = any(each.predicted for each in summaries)
    return _PAGE.substitute(
        title=escape(title),
        style=_STYLE,
        subtitle=escape(_subtitle(records, starts[0]["started"])),
        answer="".join(f"<p>{escape(sentence)}</p>" for sentence in answer if sentence),
        failed=_failures(records, manifest["invalid"]),
        figures="".join(_figure(name, image, predicted=predicted) for name, image in figures.items()),
        table=_table(summaries),
        files=escape("Every run, with all that was measured, is a row of {}; these points are in {}.".format(*files)),
        caveats="".join(f"<li>{escape(note)}</li>" for note in notes),
        facts=_facts(manifest),
        command=escape(shlex.join(["python", *starts[0]["argv"]])),
    )


def _subtitle(records: Sequence[RunRecord], begun: str) -> str:
    words = [record.status.word for record in records]
    points = len({record.trial.point.name for record in records})
    counts = [f"{words.count(word)} {word}" for word in WORDS if word in words]
    return f"{points} points, {len(words)} runs: {', '.join(counts)}. Begun {begun}."


def _failures(records: Sequence[RunRecord], invalid: Sequence[Mapping[str, str]]) -> str:
    items = []
    for record in records:
        facts, word = record.status.facts, record.status.word
        why = f", exit code {facts['exit_code']}: {facts['text']}" if word == "failed" else ""
        items += [f"{record.trial.name}: {word}{why}"] if word != "complete" else []
    items += ["{name}: left out: {reason}".format(**each) for each in invalid]
    listed = "".join(f"<li>{escape(item)}</li>" for item in items)
    return f'<h2>What is missing</h2><div class="failed"><ul>{listed}</ul></div>' if items else ""


def _figure(name: str, image: bytes, *, predicted: bool) -> str:
    caption = CAPTIONS[name] + (_PREDICTED if predicted and name == "throughput" else "")
    encoded = base64.b64encode(image).decode()
    return (
        f'<figure><img alt="{name}" src="data:image/png;base64,{encoded}"><figcaption>{caption}</figcaption></figure>'
    )


def _table(summaries: Sequence[PointSummary]) -> str:
    """A row for each point; the columns that all leave empty are left out."""
    rows = [_cells(summary) for summary in summaries]
    columns = [name for name in (rows[0] if rows else ()) if any(row[name] for row in rows)]
    heading = "".join(f"<th>{escape(name)}</th>" for name in columns)
    body = "".join(f"<tr>{''.join(f'<td>{escape(row[name])}</td>' for name in columns)}</tr>" for row in rows)
    return f"<table><thead><tr>{heading}</tr></thead><tbody>{body}</tbody></table>"


def _cells(summary: PointSummary) -> dict[str, str]:
    point, config = summary.each.point, summary.each.config
    machines = point.machines

    def show(found: Estimate | None, *, percent: bool = False, digits: int = 0) -> str:
        return "" if found is None else with_interval(found, percent=percent, digits=digits)

    return {
        "point": ", ".join(filter(None, [point.scaling, point.series])),
        "slice": machines.slice_type or "",
        "processes x devices": f"{machines.processes} x {machines.devices_per_process}",
        "environments": f"{point.num_envs:,}",
        "env steps per update": f"{config.env_steps_per_update:,}",
        "seeds": str(len(summary.runs)),
        "env steps/s": show(summary.rate),
        "predicted": "" if summary.predicted is None else f"{summary.predicted:,.0f}",
        "speed-up": show(summary.speedup, digits=2),
        "efficiency": show(summary.efficiency, percent=True),
        "lag": "" if summary.lag_mean is None else f"{summary.lag_mean:.2f}",
        "return at the step budget": show(summary.return_at_env_steps, digits=2),
        "return at the time budget": show(summary.return_at_seconds, digits=2),
    }


def _facts(manifest: Mapping[str, Any]) -> str:
    start, definition, config = manifest["starts"][0], manifest["definition"], manifest["config"]
    commits = list(dict.fromkeys(str(each["commit"]) for each in manifest["starts"]))
    hosts = list(dict.fromkeys(each["host"] for each in manifest["starts"]))
    versions = list(dict.fromkeys(_versions(each) for each in manifest["starts"]))
    limits = [f"{definition['steps']:,} env steps"] if definition["steps"] is not None else []
    limits += [f"{definition['seconds']:g} s of training"] if definition["seconds"] is not None else []
    facts = {
        "config": f"{definition['config']}: {config['agent']['name']} on {config['env']['id']}",
        "each run": " or ".join(limits) or f"{config['total_env_steps']:,} env steps, as the config says",
        "seeds": ", ".join(map(str, definition["seeds"])),
        "launched": {"local": "on this machine", "slurm": "by SLURM", "tpu": "on TPU slices"}[definition["place"]],
        "machine": f"{start['processor']}, {start['cores']} core(s), load average {start['load_average']:.1f} at the "
        f"start; {start['platform']}",
        "host": ", ".join(hosts),
        "started": ", ".join(each["started"] for each in manifest["starts"]),
        "commit": ", ".join(commits),
        "versions": "; then ".join(versions),
    }
    return "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in facts.items())


def _versions(start: Mapping[str, Any]) -> str:
    listed = [f"{name} {version}" for name, version in start["versions"].items()]
    return ", ".join([f"Python {start['python']}", *listed])
