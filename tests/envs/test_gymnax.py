"""What is special of Gymnax's environments; what they share with all others is in test_contract.py."""

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from podrl.actions import ContinuousActions, DiscreteActions
from podrl.config.config import ConfigError, EnvConfig
from podrl.envs.seeds import env_seeds
from podrl.envs.source import evaluation_protocol, load_source
from tests.short_runs import anakin_config, run

gymnax = pytest.importorskip("gymnax")
SOURCE = load_source("gymnax")


def gymnax_config(env_id, max_episode_steps=0, **options):
    return EnvConfig(source="gymnax", id=env_id, max_episode_steps=max_episode_steps, options=options)


def play(config, actions):
    """Timesteps of one environment, stacked."""
    pool = SOURCE.make_pool(config, seeds=env_seeds(3, [0]), num_threads=1)
    timesteps = [pool.reset()]
    for action in actions:
        pool.send(np.array([action]))
        timesteps.append(pool.recv())
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *timesteps)


def test_an_end_terminates_and_a_time_limit_truncates():
    falls = play(gymnax_config("CartPole-v1"), [1] * 30)  # To one side until the pole falls, after about ten steps.
    (end, *_) = np.flatnonzero(falls.discount == 0)
    assert 5 < end < 15
    assert abs(falls.observation[end, 2]) > 12 * np.pi / 180  # The final observation is the fallen pole's.
    assert falls.first[: end + 2].tolist() == [True] + [False] * end + [True]
    assert falls.reward[1 : end + 2].tolist() == [1] * end + [0]

    limited = play(gymnax_config("CartPole-v1", max_episode_steps=3), [0, 1] * 4)
    assert (limited.discount == 1).all()
    assert np.flatnonzero(limited.first).tolist() == [0, 4, 8]

    both = play(gymnax_config("CartPole-v1", max_episode_steps=int(end)), [1] * 12)
    assert np.flatnonzero(both.discount == 0)[0] == end  # What ends by itself on its last step is no truncation.


def test_the_step_of_a_reset_ignores_its_action():
    config = gymnax_config("CartPole-v1", max_episode_steps=3)
    one, other = (play(config, [0, 1, 0, action, 1]) for action in (0, 1))
    np.testing.assert_array_equal(one.observation, other.observation)


def test_episodes_begin_differently_and_go_by_gymnaxs_own_rules():
    config, actions = gymnax_config("Breakout-MinAtar"), [0, 1, 2, 2, 1, 0, 0, 0]
    found = play(config, actions)
    env, params = gymnax.make("Breakout-MinAtar")
    key = jax.random.fold_in(jax.random.key(env_seeds(3, [0])[0]), 0)
    observation, state = env.reset_env(key, params)
    for row, action in enumerate(actions):
        np.testing.assert_array_equal(found.observation[row], observation)
        observation, state, reward, ended, _ = env.step_env(key, state, action, params)
        assert found.reward[row + 1] == reward
        if ended:
            break
    starts = play(config, [0] * 40)
    assert len(np.unique(starts.observation[starts.first].reshape(starts.first.sum(), -1), axis=0)) == 2


def test_actions_and_observations_become_podrls():
    spec = SOURCE.make_spec(gymnax_config("Pendulum-v1"))
    assert spec.actions == ContinuousActions(1)
    assert SOURCE.make_spec(gymnax_config("Breakout-MinAtar", use_minimal_action_set=False)).actions == DiscreteActions(
        6
    )
    assert SOURCE.make_spec(gymnax_config("FrozenLake-misc")).observation.shape == (16,)
    assert SOURCE.make_spec(gymnax_config("Catch-bsuite")).observation == jax.ShapeDtypeStruct((50,), jnp.float32)
    # Of Pendulum's torques in [-2, 2], 1 is the largest and what is above counts the same.
    timesteps = [play(gymnax_config("Pendulum-v1"), [[action]]).observation[1] for action in (1.0, 5.0, 0.0)]
    np.testing.assert_array_equal(timesteps[0], timesteps[1])
    assert timesteps[0][2] - timesteps[2][2] == pytest.approx(2 * 3 * 0.05, abs=1e-4)


def test_evaluation_has_the_environments_own_time_limit():
    protocol = evaluation_protocol(SOURCE, gymnax_config("MemoryChain-bsuite", max_episode_steps=3, memory_length=2))
    assert (protocol.env.options, protocol.env.max_episode_steps) == ({"memory_length": 2}, 0)
    assert protocol.facts == {"max_episode_steps": 1000, "options.memory_length": 2}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (gymnax_config("Breakout-MinAtr"), "'Breakout-MinAtr' is not a Gymnax .* did you mean 'Breakout-MinAtar'"),
        (
            gymnax_config("CartPole-v1", lenght=3),
            "lenght is not an option of .*did you mean 'length'",
        ),
        (gymnax_config("CartPole-v1", force_mag="3"), "='3' has type str; expected float"),
        (gymnax_config("CartPole-v1", max_steps_in_episode=9), "not yours to set: set env.max_episode_steps"),
        (EnvConfig(source="gymnax", id="CartPole-v1", observation_keys=("x",)), "observation_keys must be empty"),
    ],
)
def test_mistakes_are_one_clear_line(config, message):
    with pytest.raises(ConfigError, match=message):
        SOURCE.make_spec(config)


def test_data_that_cannot_be_fetched_is_one_line(monkeypatch):
    def fail(env_id, **arguments):
        raise OSError("no route to host")

    monkeypatch.setattr("gymnax.make", fail)
    for function in (SOURCE.make_spec, SOURCE.option_hints):
        with pytest.raises(ConfigError, match=r"could not fetch its data \(no route to host\)"):
            function(gymnax_config("MNISTBandit-bsuite"))


class TestOwn:
    """`module:Class` and `module:function`, as of Gymnasium's environments."""

    def test_it_is_played_by_its_own_rules_and_options(self):
        config = gymnax_config("tests.envs.gymnax_own:Counting", length=3, bonus=2.0)
        found = play(config, [0] * 5)
        assert found.observation[:, 0].tolist() == [0, 1, 2, 3, 0, 1]
        assert found.reward.tolist() == [0, 2, 2, 2, 0, 2]
        assert np.flatnonzero(found.discount == 0).tolist() == [3]
        assert SOURCE.make_spec(config).actions == DiscreteActions(2)
        assert set(SOURCE.option_hints(config)) == {"length", "bonus"}

    def test_a_function_makes_it_and_a_limit_truncates(self):
        assert play(gymnax_config("tests.envs.gymnax_own:make_counting"), [0] * 3).first.tolist() == [1, 0, 0, 1]
        limited = gymnax_config("tests.envs.gymnax_own:Counting", max_episode_steps=2)
        found = play(limited, [0] * 3)
        assert found.first.tolist() == [1, 0, 0, 1]
        assert found.discount.all()
        assert evaluation_protocol(SOURCE, limited).max_episode_steps == 6

    @pytest.mark.parametrize(
        ("env_id", "said"),
        [
            ("nowhere.envs:Env", "there is no module 'nowhere.envs'"),
            ("tests.envs.gymnax_own:Countin", "has no 'Countin'; did you mean 'Counting'?"),
            ("tests.envs.gymnax_own:Other", "is no gymnax.environments.environment.Environment"),
            ("tests.envs.gymnax_own:make_nothing", "made a int; expected a gymnax"),
        ],
    )
    def test_mistakes_are_one_line(self, env_id, said):
        with pytest.raises(ConfigError) as caught:
            SOURCE.make_spec(gymnax_config(env_id))
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_it_trains_inside_the_compiled_program(self):
        outcome, rows = run(anakin_config("tests.envs.gymnax_own:Counting", total_env_steps=96))
        assert outcome.finished
        assert rows[-1]["episode/return"] == 4
