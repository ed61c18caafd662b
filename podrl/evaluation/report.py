"""Results of `tools/evaluate.py`: pure functions from episodes to numbers and text."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from podrl.config.config import Config
from podrl.envs.source import EvaluationProtocol
from podrl.evaluation.atari_scores import human_normalised
from podrl.evaluation.episodes import Episodes, summarize_episodes
from podrl.evaluation.reference import Reference
from podrl.ops.intervals import CONFIDENCE, FEW
from podrl.runtime.tables import make_table
from podrl.types import Counters


def make_score_report(
    config: Config,
    counters: Counters,
    protocol: EvaluationProtocol,
    *,
    num_envs: int,
    seed: int,
    played: Mapping[str, Episodes],
    reference: Reference | None = None,
) -> dict[str, Any]:
    """Returns all results, ready for JSON.

    Args:
        config: the run's config.
        counters: the checkpoint's counters.
        protocol: the evaluation protocol.
        num_envs: number of environments, each of which played the same number of episodes.
        seed: seed of the episodes.
        played: episodes by policy.
        reference: returns by which scores are normalised; None for no such scores.
    """
    return {
        "run": config.name,
        "env_id": config.env.id,
        "learner_steps": counters.learner_steps,
        "env_steps": counters.env_steps,
        "frames": counters.frames,
        "protocol": dict(protocol.facts),
        "seed": seed,
        "num_envs": num_envs,
        "confidence": CONFIDENCE,
        "policies": {policy: _describe(config.env.id, episodes, reference) for policy, episodes in played.items()},
    }


def _describe(env_id: str, episodes: Episodes, reference: Reference | None) -> dict[str, Any]:
    """Returns statistics, the score on the human scale and on the reference's if there are any, and every episode."""
    described = summarize_episodes(episodes)
    mean, interval = described["return"]["mean"], described["return"]["interval"]
    if reference is not None:
        ends = None if interval is None else sorted(reference.normalise(end) for end in interval)
        described["normalised"] = {"mean": reference.normalise(mean), "interval": ends}
    if human_normalised(env_id, mean) is not None:
        interval = None if interval is None else [human_normalised(env_id, end) for end in interval]
        described["human_normalised"] = {"mean": human_normalised(env_id, mean), "interval": interval}
    described |= {"returns": episodes.returns.tolist(), "lengths": episodes.lengths.tolist()}
    return described | ({"infos": list(episodes.numbers)} if episodes.numbers else {})


def show_scores(console: Console, report: Mapping[str, Any]) -> None:
    """Prints the report."""
    console.print(
        f"{report['run']} on {report['env_id']}, update {report['learner_steps']:,} "
        f"({report['env_steps']:,} env steps, {report['frames']:,} frames)",
        style="bold",
    )
    for label, text in _facts(report).items():
        console.print(f"  {label:<10} {text}", soft_wrap=True)
    console.print(_table(report["policies"], plain=not console.is_terminal))
    for note in _notes(report):
        console.print(note, soft_wrap=True)


def _facts(report: Mapping[str, Any]) -> dict[str, str]:
    num_envs, seed = report["num_envs"], report["seed"]
    episodes = next(iter(report["policies"].values()))["episodes"]
    which = f"the first {episodes // num_envs:,}" if episodes > num_envs else "the first"
    return {
        "protocol": "  ".join(f"{name}={value}" for name, value in report["protocol"].items()) or "as in training",
        "episodes": f"{episodes:,}: {which} of each of {num_envs} environments, seed {seed}",
    }


def _table(policies: Mapping[str, Mapping[str, Any]], *, plain: bool) -> Table:
    """Makes a table with a column for each policy."""
    table = make_table(("", *policies), plain=plain)
    results = policies.values()
    percent = f"{CONFIDENCE:.0%}"
    table.add_row("return, mean", *(_number(result["return"]["mean"]) for result in results), style="bold")
    table.add_row(f"  {percent} interval", *(_interval(result["return"]["interval"]) for result in results))
    table.add_row("  median", *(_number(result["return"]["median"]) for result in results))
    table.add_row("  lowest to highest", *(_span(r["return"]["min"], r["return"]["max"]) for r in results))
    for key, label in (("human_normalised", "human-normalised"), ("normalised", "normalised")):
        if all(key in result for result in results):
            scores = [result[key] for result in results]
            table.add_row(label, *(f"{score['mean']:.1%}" for score in scores), style="bold")
            intervals = [_interval(score["interval"], "{:.1%}".format) for score in scores]
            table.add_row(f"  {percent} interval", *intervals)
    infos = [result.get("info", {}) for result in results]
    for name in sorted({name for info in infos for name in info}):
        table.add_row(f"{name}, mean", *(_number(info[name]["mean"]) if name in info else "-" for info in infos))
        table.add_row(f"  {percent} interval", *(_interval(info.get(name, {}).get("interval")) for info in infos))
    table.add_row("length, mean", *(_number(result["length"]["mean"]) for result in results))
    table.add_row("  shortest to longest", *(_span(r["length"]["min"], r["length"]["max"]) for r in results))
    return table


def _notes(report: Mapping[str, Any]) -> list[str]:
    """Returns notes on what the table does not say."""
    episodes = next(iter(report["policies"].values()))["episodes"]
    notes = ["Intervals: Student's t, of the mean. Lengths in env steps."]
    if episodes < FEW:
        rough = "One episode has no interval" if episodes == 1 else f"Intervals of {episodes} episodes are rough"
        notes.append(f"WARNING: {rough}. Play {FEW} or more: --episodes.")
    scored = all("human_normalised" in result for result in report["policies"].values())
    if scored:
        notes.append("Human-normalised: 0 % is random play, 100 % a human tester (Wang et al. 2016, arXiv:1511.06581).")
    elif "frame_skip" in report["protocol"]:
        notes.append(f"There is no human-normalised score: {report['env_id']} is not one of the table's 57 games.")
    return notes


def _interval(interval: Sequence[float] | None, show_scores: Callable[[float], str] | None = None) -> str:
    return "-" if interval is None else " to ".join(map(show_scores or _number, interval))


def _span(low: float, high: float) -> str:
    return f"{_number(low)} to {_number(high)}"


def _number(value: float) -> str:
    """Returns text such as `1.23`, `812.4`, `21,045`."""
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.2f}" if abs(value) < 100 else f"{value:,.1f}" if abs(value) < 10_000 else f"{value:,.0f}"
