"""Draws follow the weights, and are the same wherever they are made."""

import functools
import json
import subprocess
import sys

import jax
from jax import numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest
from scipy import stats

from podrl.agents.parts.recorded import REBALANCED, UNIFORM
from podrl.config.config import ConfigError
from podrl.data.samplers import (
    count_starts,
    draw_key,
    draw_recorded,
    make_streams,
    return_weights,
)
from podrl.data.shards import make_facts
from tests.processes import ROOT, environment

MILLION, CHUNK = 2**20, 2**14


def facts_of(lengths, returns, whole=None):
    num = len(lengths)
    return make_facts(
        {
            "length": lengths,
            "episode_return": returns,
            "recording": [0] * num,
            "seed": [1] * num,
            "number": range(num),
            "is_whole": [True] * num if whole is None else whole,
        }
    )


def draw_transitions(priority, lengths, num=MILLION, seed=0, stream=0):
    """Draws transitions, by their number over all episodes."""
    starts = count_starts(np.asarray(lengths), 1)
    draw = functools.partial(draw_recorded, jnp.asarray(priority), jnp.asarray(starts), 4, CHUNK // 4)
    keys = jax.vmap(functools.partial(draw_key, seed, stream))(jnp.arange(num // CHUNK))
    drawn = jax.jit(lambda keys: jax.lax.map(draw, keys))(keys)
    begins = np.cumsum(lengths) - lengths
    step, episode = np.ravel(drawn.step), np.ravel(drawn.episode)
    assert (step >= 0).all()
    assert (step < np.asarray(lengths)[episode]).all()
    return begins[episode] + step


def fits(found, share):
    expected = len(found) * share / share.sum()
    counts = np.bincount(found, minlength=len(share))
    assert not counts[share == 0].any()
    return stats.chisquare(counts[share > 0], expected[share > 0]).pvalue


def test_a_million_uniform_draws_take_every_transition_alike():
    lengths = np.random.default_rng(0).integers(1, 60, 200)
    (stream,) = make_streams("none", facts_of(lengths, np.arange(200.0)))
    assert fits(draw_transitions(stream.priority, lengths), np.ones(lengths.sum())) > 1e-4
    assert fits(draw_transitions(stream.priority, lengths, seed=1), np.ones(lengths.sum())) > 1e-4


def test_a_million_resampled_draws_take_transitions_by_the_return_of_their_episode():
    rng = np.random.default_rng(1)
    lengths, returns = rng.integers(1, 60, 200), rng.normal(size=200) * 100 - 50
    (stream,) = make_streams("resample", facts_of(lengths, returns), p_base=0.1)
    share = np.repeat((returns - returns.min()) / (returns.max() - returns.min()) + 0.1, lengths)
    found = draw_transitions(stream.priority, lengths)
    assert fits(found, share) > 1e-4
    assert fits(found, np.ones(len(share))) < 1e-9  # The statistic can tell.


def test_weights_of_the_loss_have_the_mean_one_and_draws_stay_uniform():
    lengths, returns = np.array([10, 30, 60]), np.array([0.0, 5.0, 10.0])
    (stream,) = make_streams("weight", facts_of(lengths, returns))
    shares = np.array([0, 0.5, 1])
    np.testing.assert_allclose(stream.weight, 100 * shares / (shares @ lengths), rtol=1e-6)
    assert np.average(stream.weight, weights=lengths) == pytest.approx(1)
    assert (stream.priority == 1).all()


def test_decoupled_streams_are_a_uniform_and_a_rebalanced_one_which_draw_independently():
    lengths, returns = np.full(50, 20), np.arange(50.0)
    uniform, rebalanced = make_streams("decouple", facts_of(lengths, returns))
    assert (uniform.name, rebalanced.name) == (UNIFORM, REBALANCED)
    assert (uniform.priority == 1).all()
    np.testing.assert_allclose(rebalanced.priority, returns / 49, rtol=1e-6)
    for stream in (uniform, rebalanced):
        assert (stream.weight == 1).all()
    first, second = (draw_transitions(uniform.priority, lengths, stream=each.number) for each in (uniform, rebalanced))
    assert (first == second).mean() < 0.01


class TestTraps:
    """What goes wrong in return-based rebalance; see the docstrings of `podrl.data.samplers`."""

    def test_equal_returns_are_drawn_alike(self):
        with np.errstate(all="raise"):
            np.testing.assert_array_equal(return_weights(facts_of([3, 4], [7.0, 7.0])), 1)
        np.testing.assert_array_equal(return_weights(facts_of([3], [7.0])), 1)

    def test_without_a_base_the_worst_episode_is_never_drawn_and_with_one_it_is(self):
        lengths, facts = np.array([5, 5]), facts_of([5, 5], [-3.0, 8.0])
        for p_base, worst in ((0.0, 0.0), (0.2, 0.2 / 1.4)):
            (stream,) = make_streams("resample", facts, p_base=p_base)
            drawn = draw_transitions(stream.priority, lengths, 2**16)
            assert (drawn < 5).mean() == pytest.approx(worst, abs=0.01)

    def test_the_return_of_a_part_of_an_episode_is_no_return(self):
        """Cut off early, a good episode looks bad; it would be the least, or the greatest where steps cost."""
        facts = facts_of([9, 9, 2, 2], [10.0, 20.0, 1.0, 90.0], whole=[True, True, False, False])
        np.testing.assert_allclose(return_weights(facts, 0.25), [0.25, 1.25, 0.25, 0.25])
        np.testing.assert_array_equal(return_weights(facts_of([9, 9], [1.0, 2.0], whole=[False, False])), 1)

    def test_rewards_of_mixed_sign_are_weighted_by_the_whole_return_not_by_what_is_left_of_it(self):
        """All steps of an episode have one weight, and none is negative."""
        weights = return_weights(facts_of([4, 4, 4], [-100.0, -10.0, 60.0]))
        np.testing.assert_allclose(weights, [0, 90 / 160, 1])

    def test_long_episodes_of_one_return_are_drawn_more_often_than_short_ones(self):
        """The weight is that of a transition, not of an episode."""
        lengths, facts = np.array([1, 9, 5]), facts_of([1, 9, 5], [1.0, 1.0, 0.0])
        (stream,) = make_streams("resample", facts)
        drawn = draw_transitions(stream.priority, lengths, 2**16)
        assert (drawn == 0).mean() == pytest.approx(0.1, abs=0.01)

    def test_where_no_episode_of_a_window_has_a_weight_all_starts_are_drawn_alike(self):
        lengths = np.array([10, 30, 5])
        assert fits(draw_transitions(np.zeros(3, np.float32), lengths, 2**16), np.ones(45)) > 1e-4
        starts = np.array([10, 0, 5], np.int32)  # What has a weight has no start.
        drawn = draw_recorded(np.array([0, 1, 0], np.float32), starts, 4, 64, draw_key(0, 0, 0))
        assert set(np.ravel(drawn.episode)) == {0, 2}

    def test_only_episodes_without_a_step_or_weight_leave_all_alike(self):
        np.testing.assert_array_equal(return_weights(facts_of([4, 0], [0.0, 1.0])), 1)


def test_an_unknown_rebalance_is_one_line():
    with pytest.raises(ConfigError, match=r"data\.rebalance='by_return'"):
        make_streams("by_return", facts_of([1], [1.0]))


def test_sequences_start_everywhere_or_where_they_fit():
    np.testing.assert_array_equal(count_starts(np.array([1, 4, 5, 9]), 5), [1, 4, 5, 9])
    np.testing.assert_array_equal(count_starts(np.array([1, 4, 5, 9]), 5, fit=True), [1, 1, 1, 5])


def test_a_million_episodes_leave_none_without_a_number_that_leads_to_it():
    priority, starts = np.ones(10**6, np.float32), np.full(10**6, 3, np.int32)
    drawn = np.ravel(draw_recorded(priority, starts, 1, 2**17, draw_key(0, 0, 0)).episode)
    for part in (lambda i: i // 1000, lambda i: i % 1000):
        assert stats.chisquare(np.bincount(part(drawn), minlength=1000)).pvalue > 1e-4


def inputs():
    rng = np.random.default_rng(5)
    return rng.pareto(1.5, 3000).astype(np.float32), rng.integers(0, 50, 3000).astype(np.int32)


def digest(drawn):
    return [int(np.asarray(leaf, np.int64).ravel() @ np.arange(1, leaf.size + 1)) for leaf in jax.tree.leaves(drawn)]


def test_updates_seeds_and_streams_differ_and_repeat():
    priority, starts = inputs()
    keys = [(1, 0, 5), (1, 0, 6), (1, 1, 5), (2, 0, 5), (1, 0, 5)]
    found = [digest(draw_recorded(priority, starts, 2, 32, draw_key(*key)))[:2] for key in keys]
    assert found[0] == found[4]
    assert len({tuple(each) for each in found}) == 4


@pytest.mark.parametrize("devices", [1, 2, 4, 8])
def test_the_same_draws_on_any_number_of_devices(devices):
    priority, starts = inputs()
    mesh = Mesh(np.array(jax.devices()[:devices]), ("data",))
    split, rows = NamedSharding(mesh, P(None, "data")), NamedSharding(mesh, P("data"))
    update = jax.jit(lambda key: draw_recorded(priority, starts, 2, 64, key), static_argnums=())
    placed = jax.device_put(draw_key(1, 0, 5), NamedSharding(mesh, P()))
    expected = draw_recorded(priority, starts, 2, 64, draw_key(1, 0, 5))
    shardings = type(expected)(episode=split, step=split, number=rows)
    drawn = jax.jit(update, out_shardings=shardings)(placed)
    assert len(drawn.episode.sharding.device_set) == devices
    for found, wanted in zip(jax.tree.leaves(drawn), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_the_same_draws_in_another_process_with_other_devices():
    code = """
import json, sys
from podrl.data.samplers import draw_key, draw_recorded
from tests.data.test_samplers import digest, inputs
json.dump(digest(draw_recorded(*inputs(), 2, 64, draw_key(1, 0, 5))), sys.stdout)
"""
    env = {**environment(), "JAX_NUM_CPU_DEVICES": "2"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == digest(draw_recorded(*inputs(), 2, 64, draw_key(1, 0, 5)))
