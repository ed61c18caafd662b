"""Acting for T steps with JAX environments, all in one program."""

from collections.abc import Callable
import dataclasses
from typing import Any, cast

from flax import struct
import jax
from jax import numpy as jnp

from podrl.envs.pools.info_in_graph import InGraphTally
from podrl.envs.source import JaxEnvironment
from podrl.experience.unroll import ActingState, Unroller, env_keys
from podrl.ops.keys import ENVIRONMENT, era_keys, step_keys
from podrl.types import PyTree, Timestep, Trajectory


@struct.dataclass(kw_only=True)
class EnvironmentsState:
    """The state of `B` JAX environments and of acting in them, between unrolls.

    Attributes:
        environment: The environments' own state.
        timestep: The newest timestep, not yet acted on.
        carry: The network's state before that timestep.
        returns: [B] float32; sums of rewards of the episodes under way.
        lengths: [B] int32; steps of the episodes under way, saturating at the largest int32.
        numbers: numbers of `info` of the episodes under way, as `InGraphTally` has them; `()` if none are recorded.
    """

    environment: PyTree
    timestep: Timestep
    carry: PyTree
    returns: jax.Array
    lengths: jax.Array
    numbers: PyTree = ()


@struct.dataclass(kw_only=True)
class EndedEpisodes:
    """The episodes that ended in an unroll, by the row after which they ended.

    Attributes:
        returns: [T, B] float32; undiscounted returns.
        lengths: [T, B] int32; lengths in env steps, 0 where no episode ended.
        numbers: [T, B, N] float32; numbers of `info`, NaN where an episode has none; `()` if none are recorded.
    """

    returns: jax.Array
    lengths: jax.Array
    numbers: PyTree = ()


_Loop = tuple[ActingState, EnvironmentsState]


@dataclasses.dataclass(frozen=True, kw_only=True)
class InGraphUnroller:
    """Pure functions that act in JAX environments for a whole unroll.

    Attributes:
        unroller: Acts, and writes the rollouts.
        environment: The environments' functions.
        in_loop: Whether the steps are a loop of the compiled program; if not, they are unrolled.
        tally: Collects numbers of `info`; None if none are recorded.
    """

    unroller: Unroller
    environment: JaxEnvironment
    in_loop: bool
    tally: InGraphTally | None = None

    def init(self, seed: int, env_indices: jax.Array) -> EnvironmentsState:
        """Opens the environments.

        Args:
            seed: The run's seed.
            env_indices: [B] uint32; which of the whole job's environments these are.
        """
        keys = step_keys(env_keys(seed, ENVIRONMENT, env_indices), jnp.zeros((), jnp.int32))
        state, timestep = self.environment.init(keys)
        num_envs = self.unroller.num_envs
        return EnvironmentsState(
            environment=state,
            timestep=timestep,
            carry=self.unroller.agent.initial_carry(env_indices),
            returns=jnp.zeros(num_envs, jnp.float32),
            lengths=jnp.zeros(num_envs, jnp.int32),
            numbers=self.tally.init(num_envs) if self.tally else (),
        )

    def unroll(
        self, seed: int, env_indices: jax.Array, params: PyTree, version: jax.Array, state: EnvironmentsState
    ) -> tuple[Trajectory, EndedEpisodes, EnvironmentsState]:
        """Acts for T steps.

        Args:
            seed: The run's seed.
            env_indices: [B] uint32, as for `init`.
            params: The result of `Agent.actor_params`.
            version: [] int32, the learner step of `params`, which equals the number of unrolls before this one.
            state: The environments' state before the unroll.

        Returns:
            The trajectory, the episodes that ended in it, and the environments' state after it.
        """
        length = self.unroller.unroll_length
        era, _ = self.unroller.era(version)
        keys = era_keys(env_keys(seed, ENVIRONMENT, env_indices), era)
        start = self.unroller.begin(seed, env_indices, version, state.carry, state.timestep.reward)

        def step(loop: _Loop, _: None) -> tuple[_Loop, EndedEpisodes]:
            acting, envs = loop
            action, acting = self.unroller.act(params, version, acting, envs.timestep)
            envs, ended = self._step(step_keys(keys, acting.step), envs, action)
            return (acting, envs), ended

        (acting, envs), ended = (jax.lax.scan if self.in_loop else _scan_unrolled)(step, (start, state), length=length)
        trajectory, _ = self.unroller.finish(acting, envs.timestep)
        return trajectory, ended, dataclasses.replace(envs, carry=acting.carry)

    def _step(
        self, keys: jax.Array, envs: EnvironmentsState, action: jax.Array
    ) -> tuple[EnvironmentsState, EndedEpisodes]:
        """Steps the environments, and returns the episodes [B] that ended."""
        if self.tally is None:
            inner, timestep = self.environment.step(keys, envs.environment, action)
            return _count_episodes(dataclasses.replace(envs, environment=inner, timestep=timestep))
        step = cast(Callable[..., Any], self.environment.step_with_info)
        inner, timestep, told = step(keys, envs.environment, action)
        ends = timestep.first | (timestep.discount == 0)
        totals, numbers = self.tally.add(envs.numbers, told.info, timestep.first, ends)
        envs = dataclasses.replace(envs, environment=inner, timestep=timestep, numbers=totals)
        envs, ended = _count_episodes(envs)
        return envs, dataclasses.replace(ended, numbers=numbers)


def _count_episodes(state: EnvironmentsState) -> tuple[EnvironmentsState, EndedEpisodes]:
    """Adds the newest timestep to the episodes under way, and returns the episodes [B] that ended with it.

    A termination is known at once; a truncation shows only in the reset row after it.
    """
    timestep = state.timestep
    returns = state.returns + jnp.where(timestep.first, 0.0, timestep.reward)
    lengths = state.lengths + (~timestep.first & (state.lengths < jnp.iinfo(jnp.int32).max))
    ends = timestep.first | (timestep.discount == 0)
    ended = EndedEpisodes(returns=returns, lengths=jnp.where(ends, lengths, 0))
    state = dataclasses.replace(state, returns=jnp.where(ends, 0.0, returns), lengths=jnp.where(ends, 0, lengths))
    return state, ended


def _scan_unrolled(
    step: Callable[[_Loop, None], tuple[_Loop, EndedEpisodes]], loop: _Loop, *, length: int
) -> tuple[_Loop, EndedEpisodes]:
    """Computes `jax.lax.scan` without a loop in the compiled program."""
    rows = []
    for _ in range(length):
        loop, row = step(loop, None)
        rows.append(row)
    return loop, jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows)


def check_first_timestep(acting: InGraphUnroller) -> None:
    """Raises ValueError unless the environment returns what its spec describes."""
    unroller, indices = acting.unroller, jnp.arange(acting.unroller.num_envs, dtype=jnp.uint32)
    found = jax.eval_shape(lambda: acting.init(0, indices)).timestep
    expected = unroller.timestep_shape
    if jax.tree.map(_shape, found) != jax.tree.map(_shape, expected):
        raise ValueError(
            f"The JAX environment {unroller.spec.id} returns {found}; expected {expected}, as its source's make_spec "
            "describes it, with float32 reward and discount, and bool first."
        )


def _shape(leaf: jax.ShapeDtypeStruct) -> str:
    return f"{leaf.dtype}{leaf.shape}"
