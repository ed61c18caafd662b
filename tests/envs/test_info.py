"""Numbers of `info` over episodes, in sources that give them, against numbers by hand."""

import dataclasses
import logging
import math

import numpy as np
import pytest

from podrl.config.config import ConfigError, EnvConfig
from podrl.envs.info import record_info
from podrl.envs.settings import check_info_keys
from podrl.envs.source import load_source
from podrl.envs.workers import info_keys
from podrl.envs.workers.info import InfoTally
from podrl.experience.episodes import Episode, EpisodeTracker
from tests import short_runs

SEEDS = (7, 208)


def own(**settings):
    options = {name: settings.pop(name) for name in ("lengths", "truncates") if name in settings}
    return EnvConfig(source="gymnasium", id="tests.envs.informed:Informed", options=options, **settings)


def ended_numbers(config, keys, steps, seeds=SEEDS):
    """(step, environment, numbers) of each episode that ended."""
    source = load_source(config.source)
    pool = source.make_pool(config, seeds=list(seeds), num_threads=1)
    actions = source.make_spec(config).actions
    try:
        ended = record_info(pool, keys)
        pool.reset()
        found = []
        for step in range(1, steps + 1):
            pool.send(actions.sample(np.random.default_rng(step), (len(seeds),)))
            pool.recv()
            found += [(step, env, numbers) for env, numbers in sorted(ended().items())]
    finally:
        pool.close()
    return found


class TestByHand:
    KEYS = ("success", "max:success", "parts/*", "sum:parts/a", "mean:parts/a", "min:parts/b", "last", "sum:odd", "odd")

    @pytest.mark.parametrize("workers", [0, 2])
    @pytest.mark.parametrize("truncates", [False, True])
    def test_an_environment(self, workers, truncates):
        """Episodes of 1, 2, 4 steps, each with a reset behind it: they end at steps 1, 4, 9, and anew at 11."""
        found = ended_numbers(own(truncates=truncates, workers=workers), self.KEYS, 11)
        first = {"success": 0, "max:success": 0, "parts/a": 1, "parts/b": -1 / 3, "sum:parts/a": 1, "mean:parts/a": 1}
        first |= {"min:parts/b": -1 / 3, "sum:odd": 1, "odd": 1}
        second = {"success": 1, "max:success": 1, "parts/a": 2, "parts/b": -2 / 3, "sum:parts/a": 3}
        second |= {"mean:parts/a": 1.5, "min:parts/b": -2 / 3, "sum:odd": 1}  # At the last step `odd` is NaN.
        third = {"success": 0, "max:success": 1, "parts/a": 4, "parts/b": -4 / 3, "sum:parts/a": 10}
        third |= {"mean:parts/a": 2.5, "min:parts/b": -4 / 3, "sum:odd": 4}  # It lacks `last`.
        assert found == [
            *((1, 0, first | {"last": 7}), (1, 1, first | {"last": 8})),
            *((4, 0, second | {"last": 8}), (4, 1, second | {"last": 9})),
            *((9, 0, third), (9, 1, third)),
            *((11, 0, first | {"last": 10}), (11, 1, first | {"last": 11})),
        ]
        assert all(type(number) is float for *_, numbers in found for number in numbers.values())

    def test_environments_that_end_at_different_steps(self):
        found = ended_numbers(own(lengths=(3,)), ("sum:parts/a",), 3, seeds=(1,))
        assert found == [(3, 0, {"sum:parts/a": 6.0})]

    def test_every_key_of_a_step_may_be_asked_for(self):
        (_, _, numbers), *_ = ended_numbers(own(), ("*",), 1, seeds=(7,))
        assert numbers == {"last": 7.0, "odd": 1.0, "parts/a": 1.0, "parts/b": -1 / 3, "success": 0.0}

    def test_a_pool_that_is_asked_for_nothing_gives_nothing(self):
        assert ended_numbers(own(), (), 11) == []


class TestEnvPool:
    def test_numbers_of_its_arrays(self):
        """CartPole counts its steps: 1, 2, ..., n."""
        config = EnvConfig(id="CartPole-v1")
        found = ended_numbers(config, ("elapsed_step", "sum:elapsed_step", "min:e*p", "mean:players/env_id"), 200)
        assert len(found) > 6
        for _, env, numbers in found:
            length = numbers["elapsed_step"]
            assert numbers == {
                "elapsed_step": length,
                "sum:elapsed_step": length * (length + 1) / 2,
                "min:elapsed_step": 1,
                "mean:players/env_id": env,
            }

    def test_the_score_of_football_is_a_difference(self):
        config = EnvConfig(source="football", id="gfootball/academy_empty_goal_close-v1")
        source = load_source("football")
        pool = source.make_pool(config, seeds=range(8), num_threads=1)
        pool.record_info(("score",))
        tracker, ended = EpisodeTracker(8), []
        timestep = pool.reset()
        for step in range(100):
            pool.send(np.random.default_rng(step).integers(19, size=8))
            timestep = pool.recv()
            ended += tracker.step(timestep.reward, timestep.discount, timestep.first, pool.ended_numbers)
        pool.close()
        assert {episode.total for episode in ended} == {0.0, 1.0}
        assert all(episode.numbers == {"score": episode.total} for episode in ended)

    def test_an_array_is_no_number(self):
        config = EnvConfig(id="gfootball/academy_empty_goal_close-v1")
        with pytest.raises(ConfigError, match=r"log.info_keys: 'score' is int32\[2\] .* expected a number"):
            ended_numbers(config, ("max:score",), 1)
        assert all("score" not in numbers for *_, numbers in ended_numbers(config, ("s*",), 100))


class TestMistakes:
    @pytest.mark.parametrize("workers", [0, 1])
    @pytest.mark.parametrize(
        ("key", "said"),
        [
            ("vector", r"'vector' is float64\[3\] in the environment's info; expected a number"),
            ("sum:word", "'word' is type str in"),
            ("parts", r"'parts' is a dictionary in the environment's info; expected a number. Its entries are 'parts/"),
        ],
    )
    def test_a_key_that_names_no_number_is_one_line(self, key, said, workers):
        with pytest.raises(ConfigError, match=said) as failure:
            ended_numbers(own(workers=workers), (key,), 1)
        assert "\n" not in str(failure.value)

    @pytest.mark.parametrize("key", ["nothing", "seen_by_reset", "max:vec*", "sum:w?rd"])
    def test_what_is_none_or_no_number_by_wildcard_is_missing(self, key):
        assert [numbers for *_, numbers in ended_numbers(own(), (key,), 4)] == [{}] * 4

    def test_a_key_that_matches_nothing_is_warned_of_once(self, caplog):
        info_keys._warn_once.cache_clear()
        with caplog.at_level(logging.WARNING):
            for _ in range(2):  # Two pools.
                ended_numbers(own(), ("max:sucess", "success", "x*"), 10)
        (line,) = caplog.messages
        assert "matches 'max:sucess', 'x*'. It has: success, parts/a," in line

    def test_a_wildcard_that_finds_too_many_is_one_line(self):
        tally, over = InfoTally(("x", "sum:many/*"), 1), np.ones(1, bool)
        for number in range(100):  # Also where each episode has another name.
            tally.add_rows([{"x": 1, "many": {str(number): 1.0, "word": "a"}, f"own {number}": 1}], ~over, over)
        with pytest.raises(ConfigError, match=r"'sum:many/\*' matches more than 100 numbers .* as many/0, many/1,"):
            tally.add_rows([{"many": {"last": 1.0}}], ~over, over)

    @pytest.mark.parametrize(
        ("settings", "said"),
        [
            ({"env__source": "tests.envs.scripted"}, "env.source='tests.envs.scripted' gives no numbers"),
            ({"topology__placement": "anakin", "env__source": "tests.envs.jax_sides"}, "jax_sides' gives no numbers"),
        ],
    )
    def test_where_there_is_no_info_one_line_says_so_before_anything_starts(self, settings, said):
        config = short_runs.make_config(log__info_keys=("success",), **settings)
        with pytest.raises(ConfigError, match=said):
            check_info_keys(load_source(config.env.source), config)
        without = dataclasses.replace(config, log=dataclasses.replace(config.log, info_keys=()))
        check_info_keys(load_source(config.env.source), without)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("columns", [False, True])
def test_what_is_not_finite_counts_as_missing(bad, columns):
    """Two environments: 3 and bad numbers in one, bad numbers alone in the other."""
    tally = InfoTally(("x", "sum:x", "max:x", "min:x", "mean:x"), 2)
    steps = [((bad, bad), False), ((3.0, bad), False), ((bad, bad), True)]
    for values, end in steps:
        first, ended = np.zeros(2, bool), np.full(2, end)
        if columns:
            found = tally.add_columns({"x": np.array(values)}, first, ended)
        else:
            found = tally.add_rows([{"x": value} for value in values], first, ended)
    assert found == {0: {"max:x": 3.0, "mean:x": 3.0, "min:x": 3.0, "sum:x": 3.0}, 1: {}}


def test_an_episodes_numbers_wait_for_its_reset_if_it_was_truncated():
    tracker, on = EpisodeTracker(2), np.zeros(2, bool)
    ones = np.ones(2, np.float32)
    assert tracker.step(ones, ones, ~on) == []
    assert tracker.step(ones, np.array([0, 1]), on, {0: {"x": 1.0}, 1: {"x": 2.0}}) == [Episode(1.0, 1, {"x": 1.0})]
    assert tracker.step(ones, ones, ~on) == [Episode(1.0, 1, {"x": 2.0})]
    assert tracker.step(ones, np.array([0, 0]), on) == [Episode(1.0, 1), Episode(1.0, 1)]
