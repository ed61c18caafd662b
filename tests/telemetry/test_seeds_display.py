"""Several seeds are shown as one run."""

import math

import pytest

from podrl.telemetry.panel import Progress, plain_line
from podrl.telemetry.seeds_display import SeedsDisplay, join_rows
from podrl.telemetry.summary import SeedEnd, Summary, summary_text
from podrl.types import Counters


def row(episode_return, **more):
    counts = {"learner_steps": 4, "env_steps": 128, "frames": 128}
    returns = {} if episode_return is None else {"episode/return": episode_return}
    return {**counts, "env_steps_per_second": 100.0, "frames_per_second": 100.0, **returns, **more}


class Shown:
    def __init__(self):
        self.rows = []

    def update(self, found):
        self.rows.append(found)


def test_rates_are_sums_and_returns_are_means_with_the_lowest_and_the_highest():
    joined = join_rows([row(1.0, **{"loss/total": 2.0}), row(4.0, **{"loss/total": math.nan}), row(None)])
    assert joined["env_steps_per_second"] == 300
    assert joined["env_steps"] == 128
    assert joined["loss/total"] == 2.0
    line = plain_line(joined, Progress(1280, 1.0, None))
    assert "return 2.50 (1.00 to 4.00 by seed)" in line
    assert "300 steps/s" in line
    assert "(10.0%)" in line


def test_a_line_is_shown_when_all_seeds_have_their_row():
    shown = Shown()
    display = SeedsDisplay(shown, 2)
    display.update(row(1.0))
    assert not shown.rows
    display.update(row(3.0))
    assert [found["episode/return"] for found in shown.rows] == [2.0]
    display.update(row(5.0))
    display.update(row(5.0))
    assert [found["episode/return"] for found in shown.rows] == [2.0, 5.0]


@pytest.mark.parametrize("episode_return", [3.0, None])
def test_the_summary_has_a_line_for_each_seed(episode_return):
    summary = Summary(
        outcome="finished",
        counters=Counters(learner_steps=4, env_steps=128, frames=128),
        wall_s=2.0,
        env_steps_per_second=200.0,
        frames_per_second=200.0,
        episode_return=2.0,
        episodes=20,
        seeds=(SeedEnd(5, 1.0, 10), SeedEnd(6, episode_return, 10)),
    )
    lines = summary_text(summary, "title", "/run").plain.splitlines()
    told = "no episode has finished" if episode_return is None else "3.00 (mean of the last 10 episodes)"
    assert [line.split(maxsplit=2)[1:] for line in lines if line.startswith("  seed ")] == [
        ["5", "1.00 (mean of the last 10 episodes)"],
        ["6", told],
    ]
    assert any("128 of each of 2 seeds" in line for line in lines)
    assert any("/run/seed-*/metrics.jsonl" in line for line in lines)
