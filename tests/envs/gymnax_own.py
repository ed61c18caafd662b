"""Environments of Gymnax's interface, as users write their own."""

from typing import Any

from flax import struct
from gymnax.environments import environment, spaces
import jax
from jax import numpy as jnp


@struct.dataclass
class State(environment.EnvState):
    time: int


@struct.dataclass
class Params(environment.EnvParams):
    max_steps_in_episode: int = 6
    bonus: float = 1.0


class Counting(environment.Environment):
    """Observes the step of the episode, whose steps earn `bonus`; it ends after `length` steps."""

    def __init__(self, length: int = 4):
        super().__init__()
        self.length = length

    @property
    def default_params(self) -> Params:
        return Params()

    def reset_env(self, key: jax.Array, params: Params) -> tuple[jax.Array, State]:
        return jnp.zeros(1), State(time=jnp.zeros((), jnp.int32))

    def step_env(self, key: jax.Array, state: State, action: Any, params: Params) -> tuple:
        state = State(time=state.time + 1)
        observation = state.time[None].astype(jnp.float32)
        return observation, state, jnp.float32(params.bonus), self.is_terminated(state, params), {}

    def is_terminated(self, state: State, params: Params) -> jax.Array:
        return state.time >= self.length

    def is_truncated(self, state: State, params: Params) -> jax.Array:
        return state.time >= params.max_steps_in_episode

    def action_space(self, params: Params | None = None) -> spaces.Discrete:
        return spaces.Discrete(2)

    def observation_space(self, params: Params) -> spaces.Box:
        return spaces.Box(0, 100, (1,), jnp.float32)


def make_counting(length: int = 2) -> Counting:
    return Counting(length)


def make_nothing() -> int:
    return 7


class Other:
    pass
