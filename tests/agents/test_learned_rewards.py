"""An agent around which rewards are learned sees those alone, and keeps the model out of what acts."""

import dataclasses

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from podrl.agents.parts.interface import Batch
from podrl.agents.parts.learned_rewards import RewardModel, learn_rewards
from podrl.config.config import ConfigError
from podrl.replay.batches import evenly_weighted
from podrl.types import Timestep
from tests.short_runs import make_agent, make_config, random_trajectory

LENGTH, NUM = 6, 4


def make_wrapped(seen):
    """An agent that notes the trajectories that it is given, around which a reward of twice the first number is."""
    agent, spec = make_agent(make_config("CartPole-v1"))

    def learn(state, batch):
        seen["learn"] = batch.rollouts
        return dataclasses.replace(state, extra="learned"), {"loss/total": jnp.zeros(())}, None

    def observe(state, rollouts):
        seen["observe"] = rollouts
        return dataclasses.replace(state, extra="observed")

    def act(params, timestep, carry, keys):
        seen["act"] = (params, timestep)
        return agent.act(params, timestep, carry, keys)

    def rewards(own, trajectory):
        assert own == "model"
        return 2 * trajectory.observation[:-1, :, 0]

    bare = dataclasses.replace(agent, init=lambda key: dataclasses.replace(agent.init(key), extra="own"))
    bare = dataclasses.replace(bare, learn=learn, observe=observe, act=act)
    tell = {"reward/accuracy": jnp.ones(())}
    model = RewardModel(init=lambda key: "model", rewards=rewards, tell=lambda own: tell, refit=None)
    return learn_rewards(bare, model), random_trajectory(agent, spec, LENGTH, NUM)


@pytest.mark.parametrize("how", ["learn", "observe"])
def test_rewards_are_the_models_on_transitions_and_none_is_the_environments(how):
    agent, trajectory = make_wrapped(seen := {})
    state = agent.init(jax.random.key(0))
    if how == "learn":
        state, metrics, _ = agent.learn(state, Batch(rollouts=evenly_weighted(trajectory)))
        assert state.extra == {"agent": "learned", "reward": "model"}
        assert metrics["reward/accuracy"] == 1
        given = seen["learn"].trajectory
        assert metrics["reward/mean"] == pytest.approx(float(given.reward.sum() / given.is_transition.sum()), rel=1e-4)
    else:
        state = agent.observe(state, trajectory)
        assert state.extra == {"agent": "observed", "reward": "model"}
        given = seen["observe"]
    expected = np.where(trajectory.is_transition, 2 * trajectory.observation[:-1, :, 0], 0)
    np.testing.assert_array_equal(given.reward, expected)
    assert not given.opening_reward.any()
    np.testing.assert_array_equal(given.discount, trajectory.discount)


def test_who_acts_has_neither_the_model_nor_the_environments_rewards():
    agent, trajectory = make_wrapped(seen := {})
    params = agent.actor_params(agent.init(jax.random.key(0)))
    first = jnp.ones(NUM, bool)
    timestep = Timestep(
        observation=trajectory.observation[0], reward=jnp.ones(NUM), discount=jnp.ones(NUM), first=first
    )
    agent.act(params, timestep, agent.initial_carry(jnp.arange(NUM)), jax.random.split(jax.random.key(1), NUM))
    assert not seen["act"][1].reward.any()
    assert not [x for x in jax.tree.leaves(params) if isinstance(x, str)]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"agent": "impala"}, "agent.name='impala' does not have"),
        ({"rewards__every_updates": 10}, "after update 10 .* the last update is 10: none would learn from answers"),
        ({"agent": "r2d2"}, "rewards.neighbours=5 rewards .* with agent.length=80 .* Use rewards.neighbours=0"),
        ({"network__last_reward": True}, "network.last_reward=True shows the network"),
        ({"network__normalize_rewards": True}, "network.normalize_rewards=True normalises"),
        ({"rewards__combine": "confidence"}, "rewards.combine='confidence'"),
        ({"rewards__mistakes": (0.1, 0.2), "rewards__myopia": (1.0, 1.0, 0.9)}, "one value, or one for every teacher"),
        ({"topology__seeds": 2, "topology__placement": "anakin"}, "topology.seeds=2"),
    ],
)
def test_what_does_not_go_with_them_is_refused(overrides, message):
    with pytest.raises(ConfigError, match=message):
        make_config(**{"agent": "sac", "rewards__source": "preferences", **overrides})
