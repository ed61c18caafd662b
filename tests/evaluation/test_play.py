"""Playing with fixed parameters, and pictures of it."""

import dataclasses

import jax
import numpy as np
import pytest

from podrl.envs.opening import make_picture_pool
from podrl.envs.source import evaluation_protocol, load_source
from podrl.envs.sources.envpool import make_spec
from podrl.evaluation.play import check_same_interface, make_player
from tests import short_runs


class TestPlayer:
    def play(self, config, policy="sampled", episodes=6, seed=3, stream=0, **kwargs):
        agent, spec = short_runs.make_agent(config)
        source = load_source(config.env.source)
        pools = []

        def make_pool(seeds):
            pools.append(source.make_pool(config.env, seeds=seeds, num_threads=1))
            return pools[-1]

        player = make_player(
            agent, spec, policy=policy, episodes=episodes, device=jax.devices()[1], make_pool=make_pool
        )
        params = jax.device_put(agent.actor_params(agent.init(jax.random.key(0))), jax.devices()[1])
        return player.play(params, seed, stream, **kwargs), pools

    def test_plays_the_first_episodes_of_each_environment(self):
        episodes, (pool,) = self.play(short_runs.scripted_config({"episode_lengths": (3, 5)}), episodes=64)
        assert len(pool.seeds) == 32
        np.testing.assert_array_equal(episodes.lengths, [3, 5, 5, 3] * 16)
        np.testing.assert_array_equal(episodes.returns, [6, 15, 15, 6] * 16)
        assert pool.steps == 3 + 1 + 5 + 1  # No step more than the last episode needs, with the reset that shows it.
        with pytest.raises(RuntimeError, match="after close"):
            pool.recv()

    def test_the_seed_decides_everything(self):
        def returns(**kwargs):
            return self.play(short_runs.make_config(), episodes=32, **kwargs)[0].returns.tolist()

        assert returns() == returns()
        assert returns() != returns(seed=4)
        assert returns() != returns(stream=1)

    def test_environments_are_not_those_of_training(self):
        _, (pool,) = self.play(short_runs.scripted_config(), seed=1)
        _, (other,) = self.play(short_runs.scripted_config(), seed=1, stream=1)
        training = []
        config = short_runs.scripted_config(total_env_steps=4 * 8 * 4, checkpoint__every_updates=1)
        source = load_source(config.env.source)

        def make_pool(env, **kwargs):
            training.extend(kwargs["seeds"])
            return source.make_pool(env, **kwargs)

        short_runs.run(config, source=dataclasses.replace(source, make_pool=make_pool))
        assert config.seed == 1
        assert len(training) == 4 * 8
        assert len({*pool.seeds, *other.seeds, *training}) == 6 + 6 + 4 * 8

    def test_greedy_play_has_no_noise(self):
        config = short_runs.scripted_config({"episode_lengths": (4,)})
        for policy, kinds in (("greedy", 1), ("sampled", 2)):
            _, (pool,) = self.play(config, policy, episodes=32)
            _, (again,) = self.play(config, policy, episodes=32, seed=9)
            series = {np.stack(p.actions).tobytes() for p in (pool, again)}
            assert len(series) == kinds, policy


class TestProtocol:
    def test_atari_is_played_as_whole_games(self):
        options = {
            "episodic_life": True,
            "max_episode_frames": 4000,
            "repeat_action_probability": 0.25,
            "frame_skip": 2,
            "full_action_space": True,
        }
        config = short_runs.make_config("Breakout-v5", env__options=options, network__encoder="nature").env
        protocol = evaluation_protocol(load_source("envpool"), config)
        assert protocol.facts == {
            "max_episode_frames": 108_000,
            "frame_skip": 2,
            "repeat_action_probability": 0.25,
            "noop_max": 30,
            "use_fire_reset": True,
            "full_action_space": True,
            "episodic_life": False,
        }
        assert protocol.env.options["episodic_life"] is False
        assert protocol.steps_per_second == 30
        check_same_interface(make_spec(config), make_spec(protocol.env), protocol)

    def test_other_environments_keep_their_own_time_limit(self):
        config = short_runs.make_config("CartPole-v1", env__max_episode_steps=7).env
        protocol = evaluation_protocol(load_source("envpool"), config)
        assert protocol.facts == {"max_episode_steps": 500}
        assert protocol.env == dataclasses.replace(config, max_episode_steps=0)

    def test_a_source_without_one_is_played_as_in_training(self):
        config = short_runs.make_config(env__source="tests.envs.delayed", env__options={"height": 8}).env
        protocol = evaluation_protocol(load_source(config.source), config)
        assert protocol.env == config
        assert protocol.facts == {"options.height": 8}


def test_what_is_shown_of_a_game_is_the_game_that_is_played():
    """A pool with pictures plays the same game, step by step, as one without, and its picture follows the play."""
    config = short_runs.make_config("Breakout-v5", network__encoder="nature").env
    source = load_source("envpool")
    plain = source.make_pool(config, seeds=[5, 6], num_threads=1)
    shown = make_picture_pool(source, config, seeds=[5, 6], env_numbers=[0, 1], num_threads=1)
    rng, pictures = np.random.default_rng(0), []
    timesteps = [plain.reset(), shown.reset()]
    for _ in range(60):
        jax.tree.map(np.testing.assert_array_equal, *timesteps)
        pictures.append(shown.picture(1))
        action = rng.integers(0, 4, 2).astype(np.int32)
        for pool in (plain, shown):
            pool.send(action)
        timesteps = [plain.recv(), shown.recv()]
    assert pictures[0].shape == (210, 160, 3)
    assert len(np.unique(pictures[0].reshape(-1, 3), axis=0)) > 6  # In colour.
    assert len({picture.tobytes() for picture in pictures}) > 40
