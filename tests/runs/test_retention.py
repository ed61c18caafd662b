"""Which checkpoints stay, and why."""

import pytest

from podrl.config.config import CheckpointConfig, ConfigError
from podrl.runs.retention import best_steps, reasons_to_keep


def kept(steps, **config):
    reasons = reasons_to_keep(CheckpointConfig(**config), dict.fromkeys(steps))
    return {step: why for step, why in reasons.items() if why}


@pytest.mark.parametrize(
    ("steps", "config", "expected"),
    [
        ([4, 8, 12], {"keep": 2}, {8: ["newest"], 12: ["newest"]}),
        ([4, 8, 10, 11], {"keep": 1}, {8: ["newest"], 10: ["latest"], 11: ["latest"]}),
        ([4, 7, 8, 12], {"keep": 2}, {8: ["newest"], 12: ["newest"]}),
        ([3], {"keep": 1}, {3: ["newest"]}),
        ([4, 8, 12, 16], {"keep": 1, "keep_every": 8}, {8: ["permanent"], 16: ["newest", "permanent"]}),
        ([4, 8, 10], {"keep": 1, "keep_every": 4}, {4: ["permanent"], 8: ["newest", "permanent"], 10: ["latest"]}),
        ([], {}, {}),
    ],
)
def test_the_newest_boundaries_stay_and_every_so_many_for_good(steps, config, expected):
    assert kept(steps, every_updates=4, **config) == expected


def test_without_boundaries_every_checkpoint_counts():
    assert kept([3, 5, 9], every_updates=0, keep=2) == {5: ["newest"], 9: ["newest"]}


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([3, 4], {3: ["previous"], 4: ["newest"]}),
        ([4, 8, 12], {8: ["previous"], 12: ["newest"]}),
        ([4], {4: ["newest"]}),
    ],
)
def test_the_one_before_the_last_stays_where_several_runs_resume_together(steps, expected):
    reasons = reasons_to_keep(CheckpointConfig(every_updates=4, keep=1), dict.fromkeys(steps), keeps_previous=True)
    assert {step: why for step, why in reasons.items() if why} == expected


def test_the_best_boundaries_stay():
    returns = {4: 9.0, 8: None, 10: 99.0, 12: 3.0, 16: 5.0, 20: 1.0}
    reasons = reasons_to_keep(CheckpointConfig(every_updates=4, keep=1, keep_best=2), returns)
    assert reasons == {4: ["best"], 8: [], 10: [], 12: [], 16: ["best"], 20: ["newest"]}


@pytest.mark.parametrize(
    ("returns", "count", "expected"),
    [
        ({1: 2.0, 2: 2.0, 3: 1.0}, 1, [2]),
        ({1: float("nan"), 2: -5.0, 3: float("nan")}, 2, [2]),
        ({1: None, 2: None}, 3, []),
        ({1: 1.0}, 0, []),
    ],
)
def test_of_equal_ones_the_newer_is_best_and_those_without_a_return_never(returns, count, expected):
    assert best_steps(returns, count) == expected


@pytest.mark.parametrize(("every_updates", "keep_every"), [(4, 6), (4, 2), (0, 4)])
def test_only_multiples_of_the_interval_can_be_kept_for_good(every_updates, keep_every):
    message = f"checkpoint.keep_every={keep_every} must be a multiple of checkpoint.every_updates={every_updates}"
    with pytest.raises(ConfigError, match=message):
        CheckpointConfig(every_updates=every_updates, keep_every=keep_every)
