"""`tests.envs.sides` as a JAX environment: an image, a switch that turns the answer around, and a forbidden answer.

`aim` asks for the side and for a number, which the switch decides. `stuck` forbids everything at each third step.
"""

from collections.abc import Sequence
import functools

import jax
from jax import numpy as jnp

from podrl.actions import ActionSpace, DiscreteActions, HybridActions
from podrl.config.config import EnvConfig
from podrl.envs.pools.in_graph import DevicePool, Transition, make_many
from podrl.envs.source import JaxEnvironment, Source
from podrl.types import ACTION_MASK, VECTOR, EnvSpec, PyTree

_SIZE, _LENGTH = 6, 4


def _draw(env_id: str, key: jax.Array, steps: jax.Array) -> tuple[PyTree, PyTree]:
    """State and observation of one environment; what is asked for is a part of the state."""
    side, switch = jax.random.bernoulli(key, shape=(2,)).astype(jnp.int32)
    lit = (jnp.arange(_SIZE) >= _SIZE // 2) == (side == 1)
    can_act = (steps != 2) if env_id == "stuck" else True
    observation = {
        "image": (jnp.broadcast_to(lit, (_SIZE, _SIZE))[..., None] * 255).astype(jnp.uint8),
        VECTOR: switch[None].astype(jnp.float32),
        ACTION_MASK: jnp.array([True, True, False]) & can_act,
    }
    answer = side if env_id == "aim" else side ^ switch
    return {"steps": steps, "answer": answer, "target": switch - 0.5}, observation


def _reset(env_id: str, key: jax.Array) -> tuple[PyTree, PyTree]:
    return _draw(env_id, key, jnp.int32(0))


def _step(env_id: str, key: jax.Array, state: PyTree, action: jax.Array) -> Transition:
    side, near = action, 1.0
    if env_id == "aim":
        side, near = action[0], jnp.maximum(0, 1 - jnp.abs(action[1] - state["target"]))
    reward = jnp.where(side == 2, 100.0, (side == state["answer"]) * near)
    steps = state["steps"] + 1
    state, observation = _draw(env_id, key, steps)
    return Transition(state, observation, reward, steps == _LENGTH, jnp.bool_(False))


@functools.cache  # One object, so that all pools share a program.
def _environment(env_id: str) -> JaxEnvironment:
    return make_many(functools.partial(_reset, env_id), functools.partial(_step, env_id))


def make_spec(config: EnvConfig) -> EnvSpec:
    _, observation = jax.eval_shape(functools.partial(_reset, config.id), jax.random.key(0))
    actions: ActionSpace = HybridActions((3,), 1) if config.id == "aim" else DiscreteActions(3)
    return EnvSpec(id=config.id, observation=observation, actions=actions)


def make_environment(config: EnvConfig) -> JaxEnvironment:
    return _environment(config.id)


def make_pool(config: EnvConfig, *, seeds: Sequence[int], num_threads: int) -> DevicePool:
    return DevicePool(make_environment(config), make_spec(config).actions.struct, seeds)


SOURCE = Source(make_spec=make_spec, make_pool=make_pool, make_environment=make_environment)
