"""The tables of a study: one row for each run (tidy), and one for each point."""

from collections.abc import Callable, Sequence
import contextlib
import dataclasses
from typing import Any

from podrl.runtime.ledger import BUCKETS, OTHER
from podrl.studies.summary import PointSummary, RunRecord

TableRow = dict[str, Any]


def make_run_table(records: Sequence[RunRecord], summaries: Sequence[PointSummary]) -> list[TableRow]:
    """A row for each run, whatever became of it; what it does not have is None. All rows have the same columns."""
    by_point = {summary.point.name: summary for summary in summaries}
    rows = [_describe(each) | _measured(each, by_point.get(each.trial.point.name)) for each in records]
    return _completed(rows, records)


def make_point_table(summaries: Sequence[PointSummary]) -> list[TableRow]:
    """A row for each point that has a complete run: means over seeds, and their intervals."""
    rows = []
    for summary in summaries:
        row = {name: value for name, value in _describe(summary.runs[0]).items() if name not in _OF_A_RUN}
        row["seeds"] = len(summary.runs)
        rates = {"env_steps_per_second": summary.rate, "speedup": summary.speedup, "efficiency": summary.efficiency}
        for name, found in rates.items():
            values = (None, None, None) if found is None else (found.mean, found.low, found.high)
            row |= dict(zip((name, f"{name}_low", f"{name}_high"), values, strict=True))
        row |= {"lag_mean": summary.lag_mean, "predicted_env_steps_per_second": summary.predicted}
        rows.append(row | {f"time/{bucket}": share for bucket, share in summary.time.items()})
    return _completed(rows, [run for summary in summaries for run in summary.runs])


_OF_A_RUN = ("seed", "status", "exit_code", "message", "folder")


def _describe(record: RunRecord) -> TableRow:
    """What was to be run, and what became of it."""
    point = record.trial.point
    machines = point.machines
    sliced = {} if machines.slice_type is None else {"slice_type": machines.slice_type}
    return {
        "point": point.name,
        "scaling": point.scaling,
        **point.settings,
        **sliced,
        "processes": machines.processes,
        "devices_per_process": machines.devices_per_process,
        "devices": machines.devices,
        "actor_devices": point.actor_devices,
        "learner_devices": point.learner_devices,
        "num_envs": point.num_envs,
        "unroll_length": point.config.actors.unroll_length,
        "env_steps_per_update": point.config.env_steps_per_update,
        "seed": record.trial.seed,
        "status": record.status.word,
        "exit_code": record.status.facts.get("exit_code"),
        "message": record.status.facts.get("text"),
        "folder": record.folder,
    }


def _measured(record: RunRecord, summary: PointSummary | None) -> TableRow:
    found = record.measurement
    if found is None or summary is None:
        return {}
    values = dataclasses.asdict(found)
    times = values.pop("time")
    speedup = None if summary.base_rate is None else found.env_steps_per_second / summary.base_rate
    return {
        **values,
        "env_steps_per_second_per_device": found.env_steps_per_second / summary.devices,
        "speedup": speedup,
        "efficiency": None if speedup is None else speedup * summary.base_devices / summary.devices,
        "predicted_env_steps_per_second": record.status.facts.get("predicted_env_steps_per_second"),
        **{
            f"time/{who}/{bucket}": times.get(f"{who}/{bucket}", 0.0)
            for who in ("learner", "actors")  # A run in one program has no actors.
            for bucket in (*BUCKETS, OTHER)
            if any(name.startswith(f"{who}/") for name in times)
        },
    }


def _completed(rows: Sequence[TableRow], records: Sequence[RunRecord]) -> list[TableRow]:
    """The rows with the same columns each; axes whose values are numbers have numbers."""
    columns = dict.fromkeys(column for row in rows for column in row)
    for key in records[0].trial.point.settings if records else ():
        kind = _kind([row[key] for row in rows])
        rows = [row | {key: kind(row[key])} for row in rows]
    return [{column: row.get(column) for column in columns} for row in rows]


def _kind(texts: Sequence[str]) -> Callable[[str], Any]:
    """What turns all of these into values of one type."""
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            [kind(text) for text in texts]
            return kind
    return str
