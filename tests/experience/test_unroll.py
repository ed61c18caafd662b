"""What actors record, on an environment that is known in advance."""

import itertools

import jax
import numpy as np
import pytest

from podrl.envs.source import load_source
from podrl.experience.unroll import Unroller
from podrl.networks.actor_critic import make_actor_critic
from podrl.types import Trajectory
from tests.short_runs import make_agent, make_config, scripted_config


def unroll(config, num_rollouts, env_indices, length=4):
    """Rollouts of one pool, as an actor makes them but for threads and devices."""
    agent, spec = make_agent(config)
    unroller = Unroller(agent=agent, spec=spec, unroll_length=length, num_envs=len(env_indices))
    params = agent.actor_params(agent.init(jax.random.key(0)))
    pool = load_source(config.env.source).make_pool(config.env, seeds=list(env_indices), num_threads=1)
    act, finish = jax.jit(unroller.act, donate_argnums=2), jax.jit(unroller.finish, donate_argnums=0)
    state = jax.jit(unroller.init, static_argnums=0)(config.seed, np.asarray(env_indices, np.uint32), np.int32(0))
    timestep = pool.reset()
    rollouts: list[Trajectory] = []
    for version in range(num_rollouts):
        for _ in range(length):
            action, state = act(params, np.int32(version), state, timestep)
            pool.send(np.asarray(action))
            timestep = pool.recv()
        rollout, state = finish(state, timestep)
        rollouts.append(jax.device_get(rollout))
    return rollouts, pool


def test_row_t_holds_what_the_action_of_row_t_earned():
    (rollout, _), pool = unroll(scripted_config({"episode_lengths": (3, 5)}), 2, [0, 1])
    # Environment 0 plays episodes of 3 and 5 steps; its fourth row acts on a final observation and only resets.
    np.testing.assert_array_equal(rollout.observation[:, 0, 2], [0, 1, 2, 3, 0])
    np.testing.assert_array_equal(rollout.first[:, 0], [True, False, False, False, True])
    np.testing.assert_array_equal(rollout.reward[:, 0], [1, 2, 3, 0])
    np.testing.assert_array_equal(rollout.discount[:, 0], [1, 1, 0, 1])
    np.testing.assert_array_equal(rollout.is_transition[:, 0], [True, True, True, False])
    np.testing.assert_array_equal(rollout.action, np.stack(pool.actions[:4]))


def test_a_truncated_episode_keeps_its_final_observation_and_its_discount():
    (rollout,), _ = unroll(scripted_config({"episode_lengths": (3,), "truncate": True}), 1, [0])
    np.testing.assert_array_equal(rollout.observation[:, 0, 2], [0, 1, 2, 3, 0])
    np.testing.assert_array_equal(rollout.discount[:, 0], [1, 1, 1, 1])
    np.testing.assert_array_equal(rollout.is_transition[:, 0], [True, True, True, False])


def test_the_last_row_is_the_next_first_row():
    rollouts, _ = unroll(scripted_config(), 5, [0, 1, 2])
    for before, after in itertools.pairwise(rollouts):
        np.testing.assert_array_equal(before.observation[-1], after.observation[0])
        np.testing.assert_array_equal(before.first[-1], after.first[0])


def test_a_rollout_knows_the_reward_that_came_with_its_first_observation():
    """The action that earned it is in the rollout before."""
    rollouts, _ = unroll(scripted_config(), 5, [0, 1, 2])
    np.testing.assert_array_equal(rollouts[0].opening_reward, 0)
    for before, after in itertools.pairwise(rollouts):
        np.testing.assert_array_equal(before.reward[-1], after.opening_reward)
    assert np.any([rollout.opening_reward for rollout in rollouts])


def test_every_step_is_stamped_with_the_version_that_acted():
    rollouts, _ = unroll(scripted_config(), 3, [0, 1])
    assert [np.unique(rollout.params_version).tolist() for rollout in rollouts] == [[0], [1], [2]]


def test_every_rollout_says_which_environments_it_is_of():
    rollouts, _ = unroll(scripted_config(), 2, [5, 3])
    assert [rollout.env_index.tolist() for rollout in rollouts] == [[5, 3], [5, 3]]


def test_an_environments_noise_depends_on_its_index_and_not_on_its_pool():
    config = make_config("LunarLander-v3")
    (alone, _), _ = unroll(config, 2, [5], length=20)
    (among, _), _ = unroll(config, 2, [3, 4, 5, 6], length=20)
    np.testing.assert_array_equal(among.action[:, 2], alone.action[:, 0])
    assert all((among.action[:, i] != among.action[:, 2]).any() for i in (0, 1, 3))


def test_the_noise_is_new_at_every_step_and_in_every_rollout():
    """The policy is nearly uniform, so that its actions show the noise."""
    (first, second), _ = unroll(make_config("LunarLander-v3"), 2, [5, 6], length=20)
    assert len(np.unique(first.action[:, 0])) > 1
    assert (first.action != second.action).any()


@pytest.mark.parametrize(
    ("env_id", "network"),
    [
        ("Breakout-v5", {"encoder": "nature", "frame_stack": 4}),
        ("Catch-v0", {"core": "lstm", "core_size": 8, "last_action": True, "last_reward": True, "frame_stack": 2}),
    ],
    ids=["frames", "lstm"],
)
def test_the_carry_at_the_start_rebuilds_what_the_actor_saw(env_id, network):
    """Of Catch, an episode opens within a rollout, and its reward opens the next."""
    config = make_config(env_id, **{f"network__{key}": value for key, value in network.items()})
    agent, spec = make_agent(config)
    rollouts, _ = unroll(config, 3, [0, 1], length=6)
    network = make_actor_critic(config.network, spec)
    params = agent.init(jax.random.key(0)).params
    for rollout in rollouts:
        output, _ = network.unroll(params, rollout)
        np.testing.assert_allclose(output.policy[:-1], rollout.behaviour["policy"], atol=2e-6)
    assert any(np.asarray(leaf).any() for leaf in jax.tree.leaves(rollouts[-1].carry))
