"""The block of text that closes a run: how it ended, how far it came, and where its files are."""

from collections.abc import Sequence
import dataclasses
import math
import shlex
from typing import NamedTuple

from rich.text import Text

from podrl.telemetry.readable import duration, short_number, short_rate
from podrl.types import Counters


class Score(NamedTuple):
    """What an evaluation found: its update, the mean return of its episodes, and whether the agent acted greedily."""

    update: int
    episode_return: float
    episodes: int
    greedy: bool


class SeedEnd(NamedTuple):
    """How one of several seeds ended: its mean return, None if no episode has finished, and the episodes behind it."""

    seed: int
    episode_return: float | None
    episodes: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary:
    """How a run ended.

    Attributes:
        outcome: why it ended: 'finished' or 'interrupted'.
        counters: progress of the whole job.
        wall_s: seconds from this start of the run to its end.
        before_s: seconds of the run's clock before this start.
        env_steps_per_second: average over the run without warm-up.
        frames_per_second: average over the run without warm-up.
        episode_return: mean over the newest `episodes`; None if none has finished.
        episodes: number of episodes in `episode_return`.
        tensorboard: whether event files were written.
        samples_per_second: average of the samples of a data set that were learned from; None if there is none.
        score: the newest evaluation of a run from a data set; None if it has had none.
        seeds: how each seed ended, of several; counters are then those of each, and rates are sums.
    """

    outcome: str
    counters: Counters
    wall_s: float
    env_steps_per_second: float
    frames_per_second: float
    episode_return: float | None
    episodes: int
    tensorboard: bool = True
    samples_per_second: float | None = None
    before_s: float = 0.0
    score: Score | None = None
    seeds: Sequence[SeedEnd] = ()


def summary_text(summary: Summary, title: str, workdir: str) -> Text:
    """Returns the block of text that closes a run."""
    counters = summary.counters
    several = f" of each of {len(summary.seeds)} seeds" if summary.seeds else ""
    samples = summary.samples_per_second
    returns = [("return", _describe_return(summary.episode_return, summary.episodes))]
    returns += [(f"seed {end.seed}", _describe_return(end.episode_return, end.episodes)) for end in summary.seeds]
    steps = [("env steps", f"{counters.env_steps:,}{several}"), ("frames", f"{counters.frames:,}")]
    lines = [
        ("updates", f"{counters.learner_steps:,}{several}"),
        *(steps if samples is None else ()),
        ("wall time", _describe_time(summary)),
        *(returns if samples is None else [("return", _describe_score(summary.score))]),
        ("workdir", workdir),
        ("curves", f"{workdir}/{'seed-*/' if summary.seeds else ''}metrics.jsonl"),
    ]
    if samples is not None:
        if not math.isnan(samples):
            lines.insert(2, ("speed", f"{short_rate(samples)} samples/s (average, without warm-up)"))
    elif not math.isnan(summary.env_steps_per_second):  # NaN: too short, or already complete.
        rates = f"{short_rate(summary.env_steps_per_second)} steps/s, {short_rate(summary.frames_per_second)} frames/s"
        lines.insert(4, ("speed", f"{rates} (average, without warm-up)"))
    if summary.tensorboard:
        lines.append(("", f"tensorboard --logdir {shlex.quote(workdir)}"))
    text = Text(f"{summary.outcome}: {title}", style="bold green" if summary.outcome == "finished" else "bold yellow")
    for label, value in lines:
        text = Text("").join((text, Text(f"\n  {label:<11}", style="dim"), Text(value)))
    return text


def _describe_time(summary: Summary) -> str:
    if not summary.before_s:
        return duration(summary.wall_s)
    return f"{duration(summary.wall_s)} of this start, {duration(summary.before_s + summary.wall_s)} in all"


def _describe_score(score: Score | None) -> str:
    if score is None:
        return "not evaluated (evaluate.every_updates)"
    how = "greedy" if score.greedy else "sampled"
    return f"{short_number(score.episode_return)} ({how}, mean of {score.episodes:,} episodes, update {score.update:,})"


def _describe_return(episode_return: float | None, episodes: int) -> str:
    if episode_return is None:
        return "no episode has finished"
    return f"{short_number(episode_return)} (mean of the last {episodes:,} episodes)"
