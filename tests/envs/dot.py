"""A dot that is to be steered to another, seen as an image: continuous control from pixels that is learned in minutes.

The dots are in channels of their own. An action moves the dot by at most `_STRIDE` of the image's half side; the reward
is minus the distance that is left.
"""

from collections.abc import Sequence

import jax
from jax import numpy as jnp

from podrl.actions import ContinuousActions
from podrl.config.config import EnvConfig
from podrl.envs.pools.in_graph import DevicePool, Transition, make_many
from podrl.envs.source import JaxEnvironment, Source
from podrl.types import EnvSpec, PyTree

_SIZE, _LENGTH, _STRIDE = 16, 20, 0.3


def _draw(state: PyTree) -> jax.Array:
    """Returns the image [16, 16, 2], each dot a soft spot of five pixels across."""
    places = jnp.linspace(-1.2, 1.2, _SIZE)
    grid = jnp.stack(jnp.meshgrid(places, places, indexing="ij"), axis=-1)[:, :, None]
    centres = jnp.stack([state["dot"], state["goal"]])
    return (255 * jnp.exp(-jnp.sum((grid - centres) ** 2, axis=-1) / 0.04)).astype(jnp.uint8)


def _reset(key: jax.Array) -> tuple[PyTree, PyTree]:
    dot, goal = jax.random.uniform(key, (2, 2), minval=-1.0)
    state = {"dot": dot, "goal": goal, "steps": jnp.int32(0)}
    return state, _draw(state)


def _step(key: jax.Array, state: PyTree, action: jax.Array) -> Transition:
    dot = jnp.clip(state["dot"] + _STRIDE * jnp.clip(action, -1, 1), -1, 1)
    state = {**state, "dot": dot, "steps": state["steps"] + 1}
    reward = -jnp.linalg.norm(dot - state["goal"])
    return Transition(state, _draw(state), reward, jnp.bool_(False), state["steps"] == _LENGTH)


_ENVIRONMENT = make_many(_reset, _step)  # One object, so that all pools share a program.


def make_spec(config: EnvConfig) -> EnvSpec:
    _, observation = jax.eval_shape(_reset, jax.random.key(0))
    return EnvSpec(id=config.id, observation=observation, actions=ContinuousActions(2))


def make_environment(config: EnvConfig) -> JaxEnvironment:
    return _ENVIRONMENT


def make_pool(config: EnvConfig, *, seeds: Sequence[int], num_threads: int) -> DevicePool:
    return DevicePool(make_environment(config), make_spec(config).actions.struct, seeds)


SOURCE = Source(make_spec=make_spec, make_pool=make_pool, make_environment=make_environment)
