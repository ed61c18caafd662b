"""What every environment source promises, on real environments of every family."""

import functools
import itertools

import jax
import numpy as np
import pytest

from podrl.config.config import EnvConfig
from podrl.envs.seeds import env_seeds
from podrl.envs.source import load_source

NUM_ENVS = 3
NUM_STEPS = 120

CASES = {
    "pong": EnvConfig(id="Pong-v5"),
    "breakout_short": EnvConfig(id="Breakout-v5", max_episode_steps=30),
    "breakout_lives": EnvConfig(id="Breakout-v5", options={"episodic_life": True, "noop_max": 5}),
    "pong_rgb": EnvConfig(id="Pong-v5", options={"gray_scale": False}),
    "cartpole": EnvConfig(id="CartPole-v1"),
    "mountain_car": EnvConfig(id="MountainCar-v0", max_episode_steps=40),
    "lunar_lander": EnvConfig(id="LunarLander-v3"),
    "minigrid": EnvConfig(id="MiniGrid-Empty-5x5-v0", max_episode_steps=25),
    "minigrid_image": EnvConfig(id="MiniGrid-Empty-5x5-v0", observation_keys=("image",)),
    "frozen_lake": EnvConfig(id="FrozenLake-v1"),
    "taxi": EnvConfig(id="Taxi-v3"),
    "blackjack": EnvConfig(id="Blackjack-v1"),
    "catch": EnvConfig(id="Catch-v0"),
    "tetris": EnvConfig(id="Tetris-v0"),
    "game_2048": EnvConfig(id="Game2048-v1"),
    "pendulum": EnvConfig(id="Pendulum-v1", max_episode_steps=40),
    "half_cheetah": EnvConfig(id="HalfCheetah-v5", max_episode_steps=40),
    "inverted_double_pendulum": EnvConfig(id="InvertedDoublePendulum-v5"),
    "cartpole_swingup": EnvConfig(id="CartpoleSwingup-v1", max_episode_steps=40),
    "jax_with_parts": EnvConfig(source="tests.envs.jax_sides", id="sides"),
    "gymnasium_parts": EnvConfig(source="gymnasium", id="tests.envs.sides:Limited"),
    "gymnax_cartpole": EnvConfig(source="gymnax", id="CartPole-v1", max_episode_steps=15),
    "gymnax_breakout": EnvConfig(source="gymnax", id="Breakout-MinAtar"),
    "gymnax_frozen_lake": EnvConfig(source="gymnax", id="FrozenLake-misc"),
    "octax": EnvConfig(source="octax", id="brix", max_episode_steps=30),
    "ale": EnvConfig(source="ale", id="Breakout-v5", options={"repeat_action_probability": 0.25}),
    "ale_short": EnvConfig(source="ale", id="SpaceInvaders-v5", max_episode_steps=30, options={"noop_max": 5}),
    "gymnasium": EnvConfig(source="gymnasium", id="CartPole-v1"),
    "gymnasium_continuous": EnvConfig(source="gymnasium", id="Pendulum-v1", max_episode_steps=50),
    "gymnasium_discrete": EnvConfig(source="gymnasium", id="FrozenLake-v1"),
    "gymnasium_own": EnvConfig(source="gymnasium", id="tests.envs.corridor:Corridor"),
    "gymnasium_workers": EnvConfig(source="gymnasium", id="tests.envs.corridor:Corridor", workers=2),
    "brax_pendulum": EnvConfig(source="brax", id="inverted_pendulum", max_episode_steps=12),
    "scripted": EnvConfig(source="tests.envs.scripted", id="script"),
    "scripted_truncated": EnvConfig(source="tests.envs.scripted", id="script", options={"truncate": True}),
}


def make_pool(config, num_threads=2):
    seeds = env_seeds(1, range(NUM_ENVS))
    return load_source(config.source).make_pool(config, seeds=seeds, num_threads=num_threads)


def random_actions(config, num_steps=NUM_STEPS):
    actions = load_source(config.source).make_spec(config).actions  # Pools take forbidden ones, too.
    return actions.sample(np.random.default_rng(0), (num_steps, NUM_ENVS))


def play(pool, actions):
    timesteps = [pool.reset()]
    for action in actions:
        pool.send(action)
        timesteps.append(pool.recv())
    return timesteps


# A match takes seconds to open.
SLOW = {
    "football": EnvConfig(
        source="football",
        id="gfootball/academy_empty_goal_close-v1",
        options={"checkpoints": True, "observation": "features"},
    ),
    "football_minimap": EnvConfig(source="football", id="gfootball/academy_run_to_score_with_keeper-v1"),
}


@pytest.fixture(
    scope="module",
    params=[*CASES.values(), *(pytest.param(config, marks=pytest.mark.slow) for config in SLOW.values())],
    ids=[*CASES, *SLOW],
)
def config(request):
    package = {"ale": "ale_py", "brax": "brax", "octax": "octax"}.get(request.param.source)
    if package:
        pytest.importorskip(package)
    return request.param


@pytest.fixture(scope="module")
def played(config):
    """The timesteps of all random actions with one thread, which several tests look at."""
    return play(make_pool(config, num_threads=1), random_actions(config))


def test_timesteps_match_the_spec_and_the_reset_rule(config, played):
    spec = load_source(config.source).make_spec(config)

    assert played[0].first.all()
    for timestep in played:
        assert jax.tree.structure(timestep.observation) == jax.tree.structure(spec.observation)
        leaves = zip(jax.tree.leaves(timestep.observation), jax.tree.leaves(spec.observation), strict=True)
        for part, expected in leaves:
            assert isinstance(part, np.ndarray)
            assert part.shape == (NUM_ENVS, *expected.shape)
            assert part.dtype == expected.dtype
            assert part.flags["C_CONTIGUOUS"]
        for array, dtype in ((timestep.reward, np.float32), (timestep.discount, np.float32), (timestep.first, bool)):
            assert (array.shape, array.dtype) == ((NUM_ENVS,), dtype)
        assert set(timestep.discount.tolist()) <= {0.0, 1.0}
        assert (timestep.reward[timestep.first] == 0).all()
        assert (timestep.discount[timestep.first] == 1).all()
    for timestep, following in itertools.pairwise(played):
        assert following.first[timestep.discount == 0].all()  # a termination is followed by a reset row
        assert not (following.first & timestep.first).any()


def test_same_seeds_and_actions_give_the_same_timesteps(config, played):
    # Another number of threads must not change anything either.
    again = play(make_pool(config, num_threads=3), random_actions(config))

    for one, other in zip(played, again, strict=True):
        jax.tree.map(np.testing.assert_array_equal, one, other)


def test_returned_arrays_are_never_overwritten(config):
    pool = make_pool(config)
    actions = random_actions(config, 40)
    timesteps = play(pool, actions[:20])
    kept = [jax.tree.map(np.copy, timestep) for timestep in timesteps]
    for action in actions[20:]:
        pool.send(action)
        pool.recv()

    for timestep, copied in zip(timesteps, kept, strict=True):
        jax.tree.map(np.testing.assert_array_equal, timestep, copied)


def test_rows_belong_to_their_seeds(config, played):
    if config.source == "tests.envs.scripted":
        pytest.skip("the scripted source does not use its seeds")
    seeds, actions = env_seeds(1, range(NUM_ENVS)), random_actions(config)[:40]
    alone = load_source(config.source).make_pool(config, seeds=seeds[2:], num_threads=1)

    for one, other in zip(played[:41], play(alone, actions[:, 2:]), strict=True):
        # Environments that are JAX programs may round otherwise in a batch of another size.
        rows = jax.tree.map(lambda part: part[2:], one.observation)
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-6), rows, other.observation)


def test_closed_pool_raises(config):
    pool = make_pool(config)
    pool.reset()
    pool.close()
    pool.close()

    for call in (pool.reset, pool.recv, lambda: pool.send(np.zeros(NUM_ENVS, np.int32))):
        with pytest.raises(RuntimeError, match="after close"):
            call()
