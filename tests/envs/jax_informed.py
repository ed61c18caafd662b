"""A JAX environment whose `info` is known in advance, the twin of `tests.envs.informed`.

Every episode lasts `length` steps, and its step t (from 1) has reward 1. It ends by truncation with `truncates`. `info`
has `success`, a bool that is true at step 2 alone; `parts/a`, t, and `parts/b`, -t / 3; `odd`, t or, if that is even,
NaN; `noise`, that of the environment's key; `vector` [3]; and with `many` as many further numbers.
"""

from collections.abc import Sequence
import functools

import jax
from jax import numpy as jnp

from podrl.actions import DiscreteActions
from podrl.config.config import EnvConfig
from podrl.envs.pools.in_graph import DevicePool, Transition, make_many
from podrl.envs.source import JaxEnvironment, Source
from podrl.types import EnvSpec, PyTree

_DEFAULTS = {"length": 3, "truncates": False, "many": 0}


def make_spec(config: EnvConfig) -> EnvSpec:
    return EnvSpec(id=config.id, observation=jax.ShapeDtypeStruct((1,), jnp.float32), actions=DiscreteActions(2))


def make_environment(config: EnvConfig) -> JaxEnvironment:
    return _make(**_DEFAULTS | dict(config.options))


@functools.cache
def _make(length: int, truncates: bool, many: int) -> JaxEnvironment:
    def reset(key: jax.Array) -> tuple[PyTree, PyTree]:
        return jnp.int32(0), jnp.zeros(1)

    def step(key: jax.Array, state: PyTree, action: jax.Array) -> Transition:
        t = state + 1
        parts = {"a": t, "b": -t / 3}
        told = {"success": t == 2, "parts": parts, "odd": jnp.where(t % 2, t, jnp.nan), "vector": jnp.ones(3)}
        told |= {"noise": jax.random.uniform(key)} | {f"number_{index:03}": t for index in range(many)}
        over = t == length
        return Transition(t, jnp.zeros(1), 1.0, over & (not truncates), over & truncates, told)

    return make_many(reset, step)


def make_pool(config: EnvConfig, *, seeds: Sequence[int], num_threads: int) -> DevicePool:
    return DevicePool(make_environment(config), make_spec(config).actions.struct, seeds)


SOURCE = Source(make_spec=make_spec, make_pool=make_pool, make_environment=make_environment, gives_info=True)
