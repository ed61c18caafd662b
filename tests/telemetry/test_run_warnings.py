"""Warnings that save a week: what a run is told before it has cost that."""

import logging
import types

import gymnasium

from podrl.config.config import EnvConfig
from podrl.config.config_dict import to_dict
from podrl.envs.pools.gymnasium_pool import try_out
from podrl.envs.workers.statistics import warn_of_statistics
from podrl.runs.start_notes import warn_of_learning_rate
from podrl.telemetry.reporter import Reporter
from podrl.types import Counters, Snapshot
from tests.short_runs import scripted_config

STEPS = 32 * 4  # of an update


def make_config(updates, options=None, **overrides):
    return scripted_config(options, total_env_steps=updates * STEPS, actors__num_envs=32, **overrides)


def test_episodes_that_are_longer_than_the_time_between_boundaries(caplog):
    writer = types.SimpleNamespace(sync=lambda: None)

    def told(config, counts, start=None):
        reporter = Reporter(config, None, writer, None, None, start, start_s=0.0, advises=False)
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="absl"):
            for update, count in counts:
                counters = Counters(learner_steps=update)
                reporter.before_checkpoint(Snapshot(state=None, counters=counters, episodes={"count": count}))
        return [record.getMessage() for record in caplog.records]

    config = make_config(10, checkpoint__every_updates=2)
    assert told(config, [(2, 3), (4, 3), (6, 3)]) == [
        "No episode has ended in the 2 updates up to 4. Environments are opened anew at every checkpoint, so an "
        "episode of more than 8 steps never ends. Raise checkpoint.every_updates=2."
    ]
    assert not told(config, [(2, 1), (3, 1), (4, 2)])  # After update 3 it was stopped.
    start = Snapshot(state=None, counters=Counters(learner_steps=4), episodes={"count": 7})
    assert len(told(config, [(6, 7)], start)) == 1
    assert not told(make_config(10, checkpoint__every_updates=2, determinism="free"), [(2, 0), (4, 0)])


def test_a_learning_rate_that_can_go_on_says_how(monkeypatch, caplog):
    before, now = make_config(10), make_config(20)
    start = Snapshot(state=None, counters=Counters(learner_steps=5, env_steps=640), episodes={})
    with caplog.at_level(logging.WARNING, logger="absl"):
        for saved, config in (
            (to_dict(before), now),
            (to_dict(before), before),
            (None, now),  # A checkpoint that does not say.
            ({"agent": {"name": "mine"}}, now),
        ):
            monkeypatch.setattr("podrl.runs.start_notes.read_fact", lambda *_, saved=saved: saved)
            warn_of_learning_rate(None, config, start)
        warn_of_learning_rate(None, now, None)
    (told,) = [record.getMessage() for record in caplog.records]
    assert told == (
        "The learning rate jumps from 0.0003 to 0.00045 after update 5, since total_env_steps was 1280, is 2560. With "
        "agent.optimizer.learning_rate=0.0004 it would continue from 0.0003."
    )


def test_a_wrapper_with_statistics_of_its_own_is_named_once(caplog):
    def wrapped():
        made = gymnasium.wrappers.NormalizeObservation(gymnasium.make("CartPole-v1"))
        return gymnasium.wrappers.NormalizeReward(gymnasium.wrappers.ClipReward(made, -1, 1))

    config = EnvConfig(source="gymnasium", id="CartPole-v1")
    warn_of_statistics.cache_clear()
    with caplog.at_level(logging.WARNING, logger="absl"):
        try_out(lambda: gymnasium.make("CartPole-v1"), config)
        for _ in range(2):
            try_out(wrapped, config)
    (told,) = [record.getMessage() for record in caplog.records]
    assert told.startswith("NormalizeReward, NormalizeObservation: a wrapper with statistics of its own.")
    assert "network.normalize_observations=True" in told
