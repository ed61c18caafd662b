"""What agents for continuous control learn of a data set of episodes of one step.

Nine in ten recorded actions lie near -0.5 and earn nothing, the others near 0.5 and earn one. No other action is known.
"""

import dataclasses
import importlib

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from podrl.actions import ContinuousActions
from podrl.agents.parts.interface import Fresh
from podrl.agents.parts.recorded import UNIFORM
from podrl.agents.parts.updating import make_update
from podrl.config.config import NetworkConfig
from podrl.config.optimizer import OptimizerConfig
from podrl.networks.available import make_networks
from podrl.types import EnvSpec, Sample, Timestep, Trajectory

SPEC = EnvSpec(id="bandit", observation=jax.ShapeDtypeStruct((1,), jnp.float32), actions=ContinuousActions(1))
CALLS, BATCH = 1000, 64
AGENTS = {
    "td3": {"behaviour_alpha": 2.5},
    "sac": {"conservative_weight": 0.1, "entropy_in_targets": False},
    "iql": {"beta": 10.0},
    "bc": {},
}


def samples(agent):
    rng, shape = np.random.default_rng(0), (CALLS, 1, BATCH)
    is_better = rng.random(shape) < 0.1
    one = Trajectory(
        observation=np.ones((CALLS, 2, BATCH, 1), np.float32),
        first=np.zeros((CALLS, 2, BATCH), bool),
        action=(np.where(is_better, 0.5, -0.5) + rng.normal(size=shape) * 0.05)[..., None].astype(np.float32),
        reward=is_better.astype(np.float32),
        discount=np.zeros(shape, np.float32),
        behaviour=(),
        carry=jax.tree.map(lambda x: np.stack([x] * CALLS), agent.initial_carry(np.arange(BATCH, dtype=np.uint32))),
        opening_reward=np.zeros((CALLS, BATCH), np.float32),
        env_index=np.broadcast_to(np.arange(BATCH, dtype=np.uint32), (CALLS, BATCH)),
        params_version=(),
    )
    return Sample(trajectory=one, weight=np.ones((CALLS, BATCH), np.float32))


def learned_action(name):
    """The greedy action after some learning."""
    module = importlib.import_module(f"podrl.agents.{name}")
    config = module.AgentConfig(**AGENTS[name])
    faster = {
        field.name: dataclasses.replace(value, learning_rate=3e-3)
        for field in dataclasses.fields(config)
        if isinstance(value := getattr(config, field.name), OptimizerConfig)
    }
    config = dataclasses.replace(config, **faster)
    networks = make_networks(NetworkConfig(hidden_sizes=(32,), squash_actions=name in ("sac", "td3")), SPEC)
    agent = module.make_agent(config, networks=networks, spec=SPEC, num_envs=1, num_updates=1)
    fresh = Fresh(recorded={UNIFORM: samples(agent)})
    state, metrics = jax.jit(make_update(agent))(agent.init(jax.random.key(0)), fresh)
    assert all(np.isfinite(x) for x in metrics.values())
    row = np.ones(1, np.float32)
    timestep = Timestep(observation=row[None], reward=0 * row, discount=row, first=row > 0)
    carry = agent.initial_carry(np.arange(1, dtype=np.uint32))
    action, _ = agent.act_greedy(agent.actor_params(state), timestep, carry, jax.random.split(jax.random.key(1), 1))
    return float(action[0, 0])


@pytest.mark.parametrize("name", [*(pytest.param(name, marks=pytest.mark.slow) for name in ("td3", "sac")), "iql"])
def test_the_better_of_the_recorded_actions_is_learned(name):
    assert learned_action(name) == pytest.approx(0.5, abs=0.3)


def test_cloning_learns_what_was_done_whatever_it_earned():
    assert learned_action("bc") == pytest.approx(-0.4, abs=0.1)
