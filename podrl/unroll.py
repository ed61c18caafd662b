"""Acting for T steps with host environments: one jitted, donated call a step.

The rollout is written in place into a buffer that lives on the actor device: a step sends one timestep there and brings
only the actions back. Sampling keys are folded from (run seed, environment, step), so what an environment samples
depends neither on the pool it sits in nor on the timing of threads.
"""

import dataclasses

from flax import struct
import jax
from jax import numpy as jnp

from podrl.keys import ACT, purpose_key
from podrl.types import Agent, EnvSpec, PyTree, Timestep, Trajectory


@struct.dataclass(kw_only=True)
class ActingState:
    """What a pool's next step needs, all of it on the actor device.

    Attributes:
        rollout: the trajectory being written.
        carry: the network's state before `row`.
        row: [] int32; the row of `rollout` to write next.
        step: [] int32; steps that the run has taken.
        keys: [B] typed PRNG keys, one per environment.
    """

    rollout: Trajectory
    carry: PyTree
    row: jax.Array
    step: jax.Array
    keys: jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unroller:
    """Pure functions that act for `unroll_length` steps in `num_envs` environments.

    Attributes:
        agent: who acts.
        spec: in what.
        unroll_length: T.
        num_envs: B, environments of one pool.
    """

    agent: Agent
    spec: EnvSpec
    unroll_length: int
    num_envs: int

    def init(self, seed: int, env_indices: jax.Array, step: jax.Array) -> ActingState:
        """The state of a pool that was just opened.

        Args:
            seed: of the run.
            env_indices: [B] uint32; which of the whole job's environments these are.
            step: [] int32; steps that the run has taken in each of them before.
        """
        carry = self.agent.initial_carry(self.num_envs)
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(purpose_key(seed, ACT), env_indices)
        zero = jnp.zeros((), jnp.int32)
        rollout = self._empty_rollout(carry, jnp.zeros(self.num_envs), env_indices)
        return ActingState(rollout=rollout, carry=carry, row=zero, step=step, keys=keys)

    def act(
        self, params: PyTree, version: jax.Array, state: ActingState, timestep: Timestep
    ) -> tuple[jax.Array, ActingState]:
        """Writes `timestep` into the current row, acts on it and moves to the next row.

        Args:
            params: what `Agent.actor_params` returned.
            version: [] int32, the learner step of `params`.
            state: consumed.
            timestep: of [B].

        Returns:
            Actions [B, ...], and the next state.
        """
        keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(state.keys, state.step)
        action, behaviour, carry = self.agent.act(params, timestep, state.carry, keys)
        rollout = _write_timestep(state.rollout, state.row, timestep)
        rollout = dataclasses.replace(
            rollout,
            action=_write_row(rollout.action, state.row, action),
            behaviour=_write_row(rollout.behaviour, state.row, behaviour),
            params_version=_write_row(rollout.params_version, state.row, jnp.broadcast_to(version, (self.num_envs,))),
        )
        return action, dataclasses.replace(state, rollout=rollout, carry=carry, row=state.row + 1, step=state.step + 1)

    def finish(self, state: ActingState, timestep: Timestep) -> tuple[Trajectory, ActingState]:
        """Writes the row that only bootstraps and starts an empty rollout, whose row 0 will be the same timestep.

        Args:
            state: consumed.
            timestep: of [B], the result of the last actions.

        Returns:
            The finished trajectory, and the state at row 0.
        """
        rollout = _write_timestep(state.rollout, state.row, timestep)
        empty = self._empty_rollout(state.carry, timestep.reward, rollout.env_index)
        return rollout, dataclasses.replace(state, rollout=empty, row=jnp.zeros_like(state.row))

    def state_shape(self) -> ActingState:
        """Shapes and dtypes of the acting state; its `rollout` has those of a finished trajectory."""
        indices = jnp.arange(self.num_envs, dtype=jnp.uint32)
        return jax.eval_shape(lambda: self.init(0, indices, jnp.zeros((), jnp.int32)))

    def params_shape(self) -> PyTree:
        """Shapes and dtypes of what actors need."""
        return jax.eval_shape(lambda: self.agent.actor_params(self.agent.init(jax.random.key(0))))

    def timestep_shape(self) -> Timestep:
        """Shapes and dtypes of what a pool returns."""
        batch = (self.num_envs,)
        return Timestep(
            observation=jax.tree.map(lambda x: jax.ShapeDtypeStruct(batch + x.shape, x.dtype), self.spec.observation),
            reward=jax.ShapeDtypeStruct(batch, jnp.float32),
            discount=jax.ShapeDtypeStruct(batch, jnp.float32),
            first=jax.ShapeDtypeStruct(batch, jnp.bool_),
        )

    def _empty_rollout(self, carry: PyTree, opening_reward: jax.Array, env_index: jax.Array) -> Trajectory:
        """A trajectory of zeros that starts from `carry`, with a timestep of `opening_reward`."""
        length, timestep = self.unroll_length, self.timestep_shape()
        keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), self.num_envs))
        action, behaviour, _ = jax.eval_shape(self.agent.act, self.params_shape(), timestep, carry, keys)

        def zeros(rows: int, tree: PyTree) -> PyTree:
            return jax.tree.map(lambda x: jnp.zeros((rows, *x.shape), x.dtype), tree)

        return Trajectory(
            observation=zeros(length + 1, timestep.observation),
            first=zeros(length + 1, timestep.first),
            action=zeros(length, action),
            reward=zeros(length, timestep.reward),
            discount=zeros(length, timestep.discount),
            behaviour=zeros(length, behaviour),
            carry=carry,
            opening_reward=opening_reward,
            env_index=env_index,
            params_version=jnp.zeros((length, self.num_envs), jnp.int32),
        )


def _write_timestep(rollout: Trajectory, row: jax.Array, timestep: Timestep) -> Trajectory:
    """Observation and `first` go into `row`; reward and discount are the result of the action of the row before.

    In row 0 they belong to the trajectory before and are written here too, to be overwritten in row 1.
    """
    before = jnp.maximum(row - 1, 0)
    return dataclasses.replace(
        rollout,
        observation=_write_row(rollout.observation, row, timestep.observation),
        first=_write_row(rollout.first, row, timestep.first),
        reward=_write_row(rollout.reward, before, timestep.reward),
        discount=_write_row(rollout.discount, before, timestep.discount),
    )


def _write_row(buffers: PyTree, row: jax.Array, tree: PyTree) -> PyTree:
    """Overwrites a row, which must be one that the buffers have: `.at[row].set` would read it first to see to that."""

    def write(buffer: jax.Array, x: jax.Array) -> jax.Array:
        return jax.lax.dynamic_update_index_in_dim(buffer, x, row, axis=0)

    return jax.tree.map(write, buffers, tree)
