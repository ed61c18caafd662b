"""Acting for T steps: one jitted, donated call per step with host environments, a single loop with JAX environments.

The rollout is written in place into a buffer on the acting device. With environments on the host, a step sends one
timestep to the device and brings only the actions back. Sampling keys, and those of JAX environments, are folded from
(run seed, environment, step), so an environment's actions depend neither on its pool nor on the timing of threads. A
device counts steps in 32 bits, so an environment's steps are counted in eras of whole unrolls, each with keys of its
own (`podrl.ops.keys.era_keys`).
"""

import dataclasses
import functools

from flax import struct
import jax
from jax import numpy as jnp

from podrl.agents.parts.interface import Agent
from podrl.ops.keys import ACT, ERA, era_keys, purpose_key, step_keys
from podrl.types import EnvSpec, PyTree, Timestep, Trajectory


@struct.dataclass(kw_only=True)
class ActingState:
    """The state of a pool's unroll between steps, all of it on the actor device.

    Attributes:
        rollout: The trajectory being written.
        carry: The network's state before `row`.
        row: [] int32; the row of `rollout` to write next.
        step: [] int32; steps that the run has taken in this era.
        keys: [B] typed PRNG keys of this era, one per environment.
        unrolls: [] int32; unrolls that the run has completed.
        run_keys: [B] typed PRNG keys that the keys of all eras are folded from.
    """

    rollout: Trajectory
    carry: PyTree
    row: jax.Array
    step: jax.Array
    keys: jax.Array
    unrolls: jax.Array
    run_keys: jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unroller:
    """Pure functions that act for `unroll_length` steps in `num_envs` environments.

    Attributes:
        agent: The agent that acts.
        spec: The spec of the environments.
        unroll_length: T, steps in an unroll.
        num_envs: B, environments in one pool.
    """

    agent: Agent
    spec: EnvSpec
    unroll_length: int
    num_envs: int

    def init(self, seed: int, env_indices: jax.Array, unrolls: jax.Array) -> ActingState:
        """Returns the state of a pool that was just opened.

        Args:
            seed: The run's seed.
            env_indices: [B] uint32; which of the whole job's environments these are.
            unrolls: [] int32; unrolls that the run has completed before.
        """
        carry = self.agent.initial_carry(env_indices)
        return self.begin(seed, env_indices, unrolls, carry, jnp.zeros(self.num_envs))

    def begin(
        self, seed: int, env_indices: jax.Array, unrolls: jax.Array, carry: PyTree, opening_reward: jax.Array
    ) -> ActingState:
        """Returns the state at row 0 of a rollout that continues from `carry` and a timestep with `opening_reward`."""
        rollout = self._empty_rollout(carry, opening_reward, env_indices)
        return self._at_row_0(rollout, carry, unrolls, env_keys(seed, ACT, env_indices))

    def act(
        self, params: PyTree, version: jax.Array, state: ActingState, timestep: Timestep
    ) -> tuple[jax.Array, ActingState]:
        """Writes `timestep` into the current row, acts on it and moves to the next row.

        Args:
            params: The result of `Agent.actor_params`.
            version: [] int32, the learner step of `params`.
            state: The acting state; consumed.
            timestep: A timestep of [B].

        Returns:
            Actions [B, ...], and the next state.
        """
        keys = step_keys(state.keys, state.step)
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
            state: The acting state; consumed.
            timestep: The result of the last actions, of [B].

        Returns:
            The finished trajectory, and the state at row 0.
        """
        rollout = _write_timestep(state.rollout, state.row, timestep)
        empty = self._empty_rollout(state.carry, timestep.reward, rollout.env_index)
        return rollout, self._at_row_0(empty, state.carry, state.unrolls + 1, state.run_keys)

    def era(self, unrolls: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the era of unroll number `unrolls`, and the steps before it in that era; both [] int32."""
        era, unroll = jnp.divmod(unrolls, max(1, ERA // self.unroll_length))
        return era, unroll * self.unroll_length

    def _at_row_0(self, rollout: Trajectory, carry: PyTree, unrolls: jax.Array, run_keys: jax.Array) -> ActingState:
        """Returns the state at row 0 of an empty rollout."""
        era, step = self.era(unrolls)
        return ActingState(
            rollout=rollout,
            carry=carry,
            row=jnp.zeros((), jnp.int32),
            step=step,
            keys=era_keys(run_keys, era),
            unrolls=unrolls,
            run_keys=run_keys,
        )

    @functools.cached_property
    def state_shape(self) -> ActingState:
        """Shapes and dtypes of the acting state; its `rollout` has those of a finished trajectory."""
        indices = jnp.arange(self.num_envs, dtype=jnp.uint32)
        return jax.eval_shape(lambda: self.init(0, indices, jnp.zeros((), jnp.int32)))

    @functools.cached_property
    def params_shape(self) -> PyTree:
        """Shapes and dtypes of the parameters that act."""
        return jax.eval_shape(lambda: self.agent.actor_params(self.agent.init(jax.random.key(0))))

    @functools.cached_property
    def timestep_shape(self) -> Timestep:
        """Shapes and dtypes of a pool's timestep."""
        batch = (self.num_envs,)
        return Timestep(
            observation=jax.tree.map(lambda x: jax.ShapeDtypeStruct(batch + x.shape, x.dtype), self.spec.observation),
            reward=jax.ShapeDtypeStruct(batch, jnp.float32),
            discount=jax.ShapeDtypeStruct(batch, jnp.float32),
            first=jax.ShapeDtypeStruct(batch, jnp.bool_),
        )

    @functools.cached_property
    def _acted_shape(self) -> tuple[jax.ShapeDtypeStruct, PyTree]:
        """Shapes and dtypes of one step's actions and `Trajectory.behaviour`."""
        env_index = jax.ShapeDtypeStruct((self.num_envs,), jnp.uint32)
        carry = jax.eval_shape(self.agent.initial_carry, env_index)
        keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), self.num_envs))
        action, behaviour, _ = jax.eval_shape(self.agent.act, self.params_shape, self.timestep_shape, carry, keys)
        return action, behaviour

    def _empty_rollout(self, carry: PyTree, opening_reward: jax.Array, env_index: jax.Array) -> Trajectory:
        """Returns a trajectory of zeros that starts from `carry` and a timestep with `opening_reward`."""
        length, timestep = self.unroll_length, self.timestep_shape
        action, behaviour = self._acted_shape

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


def env_keys(seed: int, purpose: int, env_indices: jax.Array) -> jax.Array:
    """Returns [B] typed PRNG keys of one purpose, one for each of these environments of the job."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(purpose_key(seed, purpose), env_indices)


def _write_timestep(rollout: Trajectory, row: jax.Array, timestep: Timestep) -> Trajectory:
    """Writes observation and `first` into `row`, reward and discount into the row before, whose action earned them.

    At row 0 reward and discount belong to the trajectory before; they are written into row 0 and overwritten at row 1.
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
    """Overwrites an existing row of the buffers. `.at[row].set` would read the row first, to check its bounds."""

    def write(buffer: jax.Array, x: jax.Array) -> jax.Array:
        return jax.lax.dynamic_update_index_in_dim(buffer, x, row, axis=0)

    return jax.tree.map(write, buffers, tree)
