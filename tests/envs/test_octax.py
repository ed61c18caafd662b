"""What is special of Octax's games; what they share with all other environments is in test_contract.py."""

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from podrl.actions import DiscreteActions
from podrl.config.config import ConfigError, EnvConfig
from podrl.envs.source import evaluation_protocol, load_source

octax_environments = pytest.importorskip("octax.environments")
SOURCE = load_source("octax")


def octax_config(env_id="brix", max_episode_steps=0, **options):
    return EnvConfig(source="octax", id=env_id, max_episode_steps=max_episode_steps, options=options)


def play(config, actions, seed=3):
    """Timesteps of one environment, stacked."""
    pool = SOURCE.make_pool(config, seeds=[seed], num_threads=1)
    timesteps = [pool.reset()]
    for action in actions:
        pool.send(np.array([action]))
        timesteps.append(pool.recv())
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *timesteps)


@pytest.fixture(scope="module")
def lost():
    """Brix without a move, which loses the ball again and again."""
    return play(octax_config(), [2] * 60)


def test_timesteps_are_those_of_octaxs_own_environment(lost):
    env, _ = octax_environments.create_environment("brix")
    state, frames, _ = env.reset(jax.random.key_data(jax.random.fold_in(jax.random.key(3), 0)))
    for row in range(60):
        screens = np.asarray(frames).transpose(2, 1, 0)
        np.testing.assert_array_equal(lost.observation[row], np.where(screens, 255, 0))
        if row and lost.discount[row] == 0:
            break
        state, frames, reward, terminated, _, _ = env.step(state, 2)
        assert lost.reward[row + 1] == reward
        assert (lost.discount[row + 1] == 0) == terminated
    else:
        raise AssertionError("no game has ended")
    assert screens.any()


def test_an_end_terminates_and_a_time_limit_truncates(lost):
    end = np.flatnonzero(lost.discount == 0)[0]
    assert lost.first[: end + 2].tolist() == [True] + [False] * end + [True]
    np.testing.assert_array_equal(lost.observation[end + 1], lost.observation[0])

    limited = play(octax_config(max_episode_steps=5), [2] * 15)
    assert (limited.discount == 1).all()
    assert np.flatnonzero(limited.first).tolist() == [0, 6, 12]
    np.testing.assert_array_equal(limited.observation[:6], lost.observation[:6])


def test_chance_comes_from_the_seed():
    """In UFO the enemy's place is drawn; in Octax each game opens in the same state."""
    one, same, other = (play(octax_config("ufo"), [3] * 30, seed=seed) for seed in (1, 1, 2))

    np.testing.assert_array_equal(one.observation, same.observation)
    np.testing.assert_array_equal(one.observation[0], other.observation[0])
    assert not np.array_equal(one.observation, other.observation)


def test_the_spec_follows_the_games_keys_and_the_frames_of_a_step():
    spec = SOURCE.make_spec(octax_config())
    assert spec.observation == jax.ShapeDtypeStruct((32, 64, 4), jnp.uint8)
    assert (spec.actions, spec.frames_per_step) == (DiscreteActions(3), 4)
    assert SOURCE.make_spec(octax_config("cavern2", frame_skip=2)).observation.shape == (32, 64, 2)


def test_a_level_made_before_changes_nothing():
    octax_environments.create_environment("cavern3")
    config = octax_config("cavern1", max_episode_steps=3)
    found = play(config, [0])
    env, _ = octax_environments.create_environment("cavern1")
    frames = env.reset(jax.random.PRNGKey(0))[1]

    np.testing.assert_array_equal(found.observation[0], 255 * np.asarray(frames).transpose(2, 1, 0))


def test_evaluation_has_octaxs_own_time_limit():
    protocol = evaluation_protocol(SOURCE, octax_config(max_episode_steps=3, frame_skip=2))
    assert (protocol.max_episode_steps, protocol.env.max_episode_steps, protocol.steps_per_second) == (4500, 0, 30)
    assert protocol.facts == {"max_episode_steps": 4500, "options.frame_skip": 2}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (octax_config("brixx"), "env.id='brixx' is not a game of Octax; did you mean 'brix'.*Available: airplane"),
        (octax_config("cavern"), "env.id='cavern' is not a game of Octax; did you mean 'cavern"),
        (octax_config(frame_skp=2), "frame_skp is not an option of brix; did you mean 'frame_skip'"),
        (octax_config(frame_skip="2"), "='2' has type str; expected int"),
        (octax_config(frame_skip=0), r"frame_skip=0 must lie in \[1, 1000\]"),
        (octax_config(fps=0), r"fps=0 must lie in \[1, 700\]"),
        (octax_config(instruction_frequency=100_001), "instruction_frequency=100001 must be at most 100,000"),
        (octax_config(max_num_steps_per_episodes=9), "not yours to set: set env.max_episode_steps"),
        (EnvConfig(source="octax", id="brix", observation_keys=("x",)), "observation_keys must be empty"),
        (EnvConfig(source="octax", id="brix", channels="first"), "channels='first' cannot be"),
        (EnvConfig(source="octax", id="brix", uint8="numbers"), "uint8='numbers' cannot be"),
    ],
)
def test_mistakes_are_one_clear_line(config, message):
    with pytest.raises(ConfigError, match=message) as caught:
        SOURCE.make_spec(config)
    assert "\n" not in str(caught.value)


def test_the_line_of_an_unknown_game_names_games_that_can_all_be_made():
    with pytest.raises(ConfigError) as caught:
        SOURCE.make_spec(octax_config("nothing"))
    games = str(caught.value).partition("Available: ")[2].rstrip(".").split(", ")

    assert len(games) == 37
    for game in games[:: len(games) // 6]:
        assert SOURCE.make_spec(octax_config(game)).actions.num > 1
