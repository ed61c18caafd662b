"""`tests.envs.sides` as a JAX environment: an image, a switch that turns the answer around, and a forbidden answer."""

from collections.abc import Sequence

import jax
from jax import numpy as jnp

from podrl.actions import DiscreteActions
from podrl.config.config import EnvConfig
from podrl.envs.pools.in_graph import DevicePool, Transition, make_many
from podrl.envs.source import JaxEnvironment, Source
from podrl.types import ACTION_MASK, VECTOR, EnvSpec, PyTree

_SIZE, _LENGTH = 6, 4


def _draw(key: jax.Array, steps: jax.Array) -> tuple[PyTree, PyTree]:
    """State and observation of one environment; the right answer is a part of the state."""
    side, switch = jax.random.bernoulli(key, shape=(2,)).astype(jnp.int32)
    lit = (jnp.arange(_SIZE) >= _SIZE // 2) == (side == 1)
    observation = {
        "image": (jnp.broadcast_to(lit, (_SIZE, _SIZE))[..., None] * 255).astype(jnp.uint8),
        VECTOR: switch[None].astype(jnp.float32),
        ACTION_MASK: jnp.array([True, True, False]),
    }
    return {"steps": steps, "answer": side ^ switch}, observation


def _reset(key: jax.Array) -> tuple[PyTree, PyTree]:
    return _draw(key, jnp.int32(0))


def _step(key: jax.Array, state: PyTree, action: jax.Array) -> Transition:
    reward = jnp.where(action == 2, 100.0, (action == state["answer"]).astype(jnp.float32))
    steps = state["steps"] + 1
    state, observation = _draw(key, steps)
    return Transition(state, observation, reward, steps == _LENGTH, jnp.bool_(False))


_ENVIRONMENT = make_many(_reset, _step)  # One object, so that all pools share a program.


def make_spec(config: EnvConfig) -> EnvSpec:
    _, observation = jax.eval_shape(_reset, jax.random.key(0))
    return EnvSpec(id=config.id, observation=observation, actions=DiscreteActions(3))


def make_environment(config: EnvConfig) -> JaxEnvironment:
    return _ENVIRONMENT


def make_pool(config: EnvConfig, *, seeds: Sequence[int], num_threads: int) -> DevicePool:
    return DevicePool(make_environment(config), make_spec(config).actions.struct, seeds)


SOURCE = Source(make_spec=make_spec, make_pool=make_pool, make_environment=make_environment)
