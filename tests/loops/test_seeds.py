"""Several seeds in one program: each is the run of that seed alone."""

import dataclasses
import types

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from podrl import assembly, train
from podrl.assembly import assemble
from podrl.config.config import ConfigError
from podrl.envs.pools.seeds_in_graph import join_seeds
from podrl.envs.source import JaxEnvironment, load_source, make_environment
from podrl.evaluation import play
from podrl.learning.fused_report import fetch_reports
from podrl.learning.memory_check import check_state_fits
from podrl.learning.seeds import check_seeds
from podrl.loops.interface import Hooks, SeedRun, Services
from podrl.saved_run import open_run
from podrl.types import Counters, Snapshot
from tests.loops.seeds import FIRST, NUM, SEEDS, folders, run_seeds, seeds_config, words
from tests.processes import read_rows
from tests.short_runs import anakin_config, make_config

pytestmark = pytest.mark.usefixtures("compiled_once")


def test_each_starts_from_the_state_that_it_has_alone():
    learner = assemble(seeds_config(), jax.devices()[:1]).learner
    together = learner.init(FIRST)
    for index, seed in enumerate(SEEDS):
        alone = assemble(seeds_config(seed=seed, topology__seeds=1), jax.devices()[:1]).learner.init(seed)
        jax.tree.map(np.testing.assert_array_equal, words(learner.take(together, index)), words(alone))


def test_each_does_what_it_does_alone():
    """Sums are taken in another order; until actions differ by that, environments go the same way."""
    config = seeds_config(env__max_episode_steps=0)
    learner = assemble(config, jax.devices()[:1]).learner
    together, report = learner.run(learner.init(FIRST), 4)
    for index, (seed, told) in enumerate(zip(SEEDS, fetch_reports(report, NUM), strict=True)):
        single = assemble(
            seeds_config(seed=seed, topology__seeds=1, env__max_episode_steps=0), jax.devices()[:1]
        ).learner
        alone, other = single.run(single.init(seed), 4)
        (other,) = fetch_reports(other, 1)
        mine = learner.take(together, index)
        np.testing.assert_array_equal(told.episodes.lengths, other.episodes.lengths)
        np.testing.assert_array_equal(told.episodes.returns, other.episodes.returns)
        np.testing.assert_array_equal(mine.environments.timestep.first, alone.environments.timestep.first)
        for name in ("loss/total", "grad/norm", "policy/entropy", "value/mean"):
            np.testing.assert_allclose(told.metrics[name], other.metrics[name], rtol=1e-4, atol=1e-6)
        for x, y in zip(jax.tree.leaves(words(mine)), jax.tree.leaves(words(alone)), strict=True):
            np.testing.assert_allclose(x, y, atol=1e-5)


@pytest.mark.slow
def test_each_seed_is_evaluated(tmp_path, monkeypatch):
    """By the same program, as it would be alone."""
    made = []

    def make_player(*parts, **options):
        made.append(play.make_player(*parts, **options))
        return made[-1]

    monkeypatch.setattr("podrl.evaluation.making.make_player", make_player)
    config = seeds_config(evaluate__every_updates=6, evaluate__episodes=4)
    assert train.train(config, workdir=str(tmp_path)).finished
    (player,), returns = made, []
    for own in folders(tmp_path):
        rows = [row for row in read_rows(own) if "evaluate/return" in row]
        assert [(row["learner_steps"], row["evaluate/episodes"]) for row in rows] == [(6, 4), (12, 4)]
        saved = open_run(str(own), 12, player.device)
        assert rows[-1]["evaluate/return"] == player.play(saved.params, saved.config.seed, 12).returns.mean()
        returns.append(tuple(row["evaluate/length"] for row in rows))
    assert len(set(returns)) > 1


class TestNonFinite:
    """The second of three seeds starts from parameters that are not numbers."""

    def starts(self, config):
        learner = assemble(config, jax.devices()[:1]).learner
        states = [learner.take(learner.init(FIRST), index) for index in range(NUM)]
        states[1] = states[1].replace(params=jax.tree.map(lambda x: x.at[0].set(jnp.nan), states[1].params))
        return [Snapshot(state=state, counters=Counters(learner_steps=3), episodes={}) for state in states]

    def test_it_stops_the_run_and_is_named(self):
        config = seeds_config()
        with pytest.raises(RuntimeError, match=r"Update 4 of seed 6 is not finite: loss/total is nan"):
            run_seeds(config, self.starts(config))

    def test_it_is_skipped_in_that_seed_alone(self):
        config = seeds_config(on_nonfinite="skip")
        _, rows = run_seeds(config, self.starts(config))
        assert [{row["grad/skipped"] for row in each} for each in rows] == [{0}, {1}, {0}]


def test_environments_of_seeds_are_stepped_as_one_batch():
    config, sizes = anakin_config(), []
    environment = make_environment(load_source("gymnax"), config.env)

    def step(keys, state, action):
        sizes.append(len(keys))
        return environment.step(keys, state, action)

    joined = join_seeds(JaxEnvironment(init=environment.init, step=step))
    keys = jax.random.split(jax.random.key(1), (NUM, 4))
    action = jnp.zeros((NUM, 4), jnp.int32)
    states, opened = jax.vmap(joined.init)(keys)
    stepped = jax.vmap(joined.step)(keys, states, action)[1]
    assert sizes[-1] == NUM * 4
    for index in range(NUM):
        alone, first = environment.init(keys[index])
        np.testing.assert_array_equal(opened.observation[index], first.observation)
        np.testing.assert_array_equal(
            stepped.observation[index], environment.step(keys[index], alone, action[index])[1].observation
        )


class TestRefused:
    def test_on_sebulba(self):
        with pytest.raises(ConfigError, match=r"topology.seeds=2 trains several seeds in one compiled program, which"):
            make_config(topology__seeds=2)

    def test_beyond_the_last_seed(self):
        with pytest.raises(ConfigError, match=r"topology.seeds=2 from seed=2147483647 on ends at 2147483648"):
            anakin_config(seed=2**31 - 1, topology__seeds=2)

    def test_in_several_processes(self):
        with pytest.raises(ConfigError, match=r"topology.seeds=3 trains in one process, and this job has 2"):
            check_seeds(seeds_config(), types.SimpleNamespace(num_processes=2))

    def test_what_does_not_fit_the_memory_of_all(self, monkeypatch):
        config = seeds_config(topology__seeds=1, actors__num_envs=8)
        parts = assemble(config, jax.devices()[:1])
        monkeypatch.setattr("podrl.learning.memory_check.host_memory_bytes", lambda: 40_000)
        check_state_fits(config, parts.spec, parts.topology, parts.state_shape)
        many = assemble(seeds_config(topology__seeds=64), jax.devices()[:1])
        with pytest.raises(ConfigError, match=r"Lower topology.seeds=64, actors.num_envs"):
            check_state_fits(many.config, many.spec, many.topology, many.state_shape)


@pytest.mark.slow
def test_seeds_on_several_devices_learn_what_they_learn_on_one():
    one, _ = run_seeds(seeds_config())
    parts = assemble(seeds_config(), jax.devices()[:4])
    seeds = [SeedRun(assembly=each, start=None, hooks=Hooks(), services=Services()) for each in parts.of_each_seed()]
    four = assembly.run(parts, seeds=seeds)
    for each, other in zip(one.seeds, four.seeds, strict=True):
        for x, y in zip(jax.tree.leaves(each.state.params), jax.tree.leaves(other.state.params), strict=True):
            np.testing.assert_allclose(x, y, atol=1e-5)


def test_configs_of_seeds_differ_in_nothing_but_the_seed():
    config = seeds_config()
    alone = config.of_each_seed()
    assert [each.seed for each in alone] == list(SEEDS)
    whole = dataclasses.replace(config, topology=dataclasses.replace(config.topology, seeds=1))
    assert {dataclasses.replace(each, seed=FIRST) for each in map(_frozen, alone)} == {_frozen(whole)}


def _frozen(config):
    return dataclasses.replace(config, env=None)
