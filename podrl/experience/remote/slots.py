"""Acting for whichever environments have a timestep: their state lies in slots on the actor's device.

An environment's recurrent carry has a slot, and its unroll is written into a column of a buffer with room for two
unrolls of each environment: one under way, and one that waits for an update. A batch of any environments gathers what
it needs and scatters what it changes, by index. Batches are padded to a few sizes, for which acting is compiled ahead
of time; the slots of what was added lie outside of all arrays, so that nothing of it is written.

Keys are those of `podrl.experience.unroll`: folded from (run seed, environment, step).

Source: Espeholt et al. 2019 (SEED RL), arXiv:1910.06591, section 3.1, which keeps both at the central inference too.
"""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any, NamedTuple

from flax import struct
import jax
from jax import numpy as jnp
from jax.sharding import SingleDeviceSharding
import numpy as np

from podrl.experience.unroll import Unroller, env_keys
from podrl.ops.keys import ACT, era_keys, step_keys
from podrl.types import PyTree, Timestep, Trajectory


@struct.dataclass(kw_only=True)
class Slots:
    """The state of acting in `E` environments, on the actor's device.

    Attributes:
        carry: pytree of [E, ...]; the network's state of each environment.
        unrolls: a trajectory [T, S] whose columns are the unrolls under way and those that wait.
    """

    carry: PyTree
    unrolls: Trajectory


class Places(NamedTuple):
    """Where the `K` environments of a batch have their state. It crosses to the device as one array [5, K].

    Attributes:
        env_index: [K] int32; which of the job's environments they are.
        slot: [K] int32; of their carries. What only pads a batch has one outside of all slots.
        column: [K] int32; of the unrolls that they write. What only pads has one outside of all columns.
        row: [K] int32; the row to write, 0 to T - 1.
        unroll: [K] int32; the environments' unrolls before this one, those of earlier starts of the run included.
    """

    env_index: Any
    slot: Any
    column: Any
    row: Any
    unroll: Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class SlotUnroller:
    """Pure functions that act in any of an actor's environments.

    Attributes:
        unroller: acts in one group of environments.
        seed: the run's seed.
        num_slots: E.
        num_columns: S.
    """

    unroller: Unroller
    seed: int
    num_slots: int
    num_columns: int

    def init(self) -> Slots:
        """Returns empty slots."""
        unrolls = self._of(self.num_columns).state_shape.rollout
        carry = self._of(self.num_slots).state_shape.carry
        return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), Slots(carry=carry, unrolls=unrolls))

    def open(self, slots: Slots, slot: jax.Array, env_index: jax.Array) -> Slots:
        """Begins the carries of environments that were just opened; consumes `slots`."""
        carry = self.unroller.agent.initial_carry(env_index)
        return dataclasses.replace(slots, carry=_scatter(slots.carry, (slot,), carry))

    def act(
        self, params: PyTree, version: jax.Array, slots: Slots, timestep: Timestep, placed: jax.Array
    ) -> tuple[jax.Array, Slots]:
        """Writes a timestep of [K] into the environments' rows and acts on it.

        At row 0 the result of the action before belongs to the unroll before, into which `finish` writes it.

        Args:
            params: the result of `Agent.actor_params`.
            version: [] int32, the learner step of `params`.
            slots: consumed.
            timestep: a timestep of [K].
            placed: [5, K] int32; the `Places` of the K environments.

        Returns:
            Actions [K, ...], and the slots.
        """
        places, unrolls = Places(*placed), slots.unrolls
        _, slot, column, row, _ = places
        carry = jax.tree.map(lambda x: x.at[slot].get(mode="clip"), slots.carry)
        action, behaviour, after = self.unroller.agent.act(params, timestep, carry, self._keys(places))
        begun = jnp.where(row == 0, column, self.num_columns)
        before = jnp.where(row == 0, self.unroller.unroll_length, row - 1)  # Past the last row: nothing is written.
        unrolls = dataclasses.replace(
            unrolls,
            observation=_scatter(unrolls.observation, (row, column), timestep.observation),
            first=_scatter(unrolls.first, (row, column), timestep.first),
            action=_scatter(unrolls.action, (row, column), action),
            reward=_scatter(unrolls.reward, (before, column), timestep.reward),
            discount=_scatter(unrolls.discount, (before, column), timestep.discount),
            behaviour=_scatter(unrolls.behaviour, (row, column), behaviour),
            carry=_scatter(unrolls.carry, (begun,), carry),
            opening_reward=_scatter(unrolls.opening_reward, (begun,), timestep.reward),
            params_version=_scatter(unrolls.params_version, (row, column), jnp.broadcast_to(version, row.shape)),
        )
        return action, Slots(carry=_scatter(slots.carry, (slot,), after), unrolls=unrolls)

    def finish(self, slots: Slots, timestep: Timestep, column: jax.Array) -> Slots:
        """Writes the row that only bootstraps into unrolls of [B] environments; consumes `slots`."""
        unrolls, last = slots.unrolls, jnp.full(column.shape, self.unroller.unroll_length)
        unrolls = dataclasses.replace(
            unrolls,
            observation=_scatter(unrolls.observation, (last, column), timestep.observation),
            first=_scatter(unrolls.first, (last, column), timestep.first),
            reward=_scatter(unrolls.reward, (last - 1, column), timestep.reward),
            discount=_scatter(unrolls.discount, (last - 1, column), timestep.discount),
        )
        return dataclasses.replace(slots, unrolls=unrolls)

    def read(self, slots: Slots, column: jax.Array, env_index: jax.Array, is_cut: jax.Array) -> Trajectory:
        """Returns the unrolls in some columns as a trajectory [T, B] of its own.

        Args:
            slots: not consumed.
            column: [B] int32.
            env_index: [B] uint32; what the trajectory says of its environments.
            is_cut: [] bool; row 0 counts as the first of an episode, as it does not continue what came before it.
        """
        taken = slots.unrolls.map(lambda x: jnp.take(x, column, axis=1), lambda x: jnp.take(x, column, axis=0))
        first = taken.first.at[0].set(taken.first[0] | is_cut)
        return dataclasses.replace(taken, first=first, env_index=env_index)

    def shape_of(self, num_envs: int) -> tuple[Timestep, jax.ShapeDtypeStruct]:
        """Returns shapes and dtypes of what `act` takes for a batch of environments."""
        return self._of(num_envs).timestep_shape, jax.ShapeDtypeStruct((len(Places._fields), num_envs), np.int32)

    def _of(self, num_envs: int) -> Unroller:
        return dataclasses.replace(self.unroller, num_envs=num_envs)

    def _keys(self, places: Places) -> jax.Array:
        """Returns [K] typed PRNG keys of the environments' steps."""
        era, before = self.unroller.era(places.unroll)

        def of_step(key: jax.Array, era: jax.Array, step: jax.Array) -> jax.Array:
            return step_keys(era_keys(key[None], era), step)[0]

        return jax.vmap(of_step)(
            env_keys(self.seed, ACT, places.env_index.astype(jnp.uint32)), era, before + places.row
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SlotPrograms:
    """The functions of a `SlotUnroller`, compiled for one device; slots are donated, except to `read`.

    Attributes:
        init: () -> slots.
        open: (slots, slot [B], env_index [B]) -> slots.
        act: (params, version, slots, timestep, placed) -> (actions, slots), by number of environments in growing order.
        finish: (slots, timestep, column [B]) -> slots.
        read: (slots, column [B], env_index [B], is_cut []) -> trajectory.
        timestep: shapes and dtypes of a group's timestep.
    """

    init: Callable[[], Slots]
    open: Callable[..., Slots]
    act: dict[int, Callable[..., tuple[jax.Array, Slots]]]
    finish: Callable[..., Slots]
    read: Callable[..., Trajectory]
    timestep: Timestep


def compile_slots(slot_unroller: SlotUnroller, sizes: list[int], device: jax.Device) -> SlotPrograms:
    """Compiles acting ahead of time, for batches of each of these numbers of environments."""
    sharding, unroller = SingleDeviceSharding(device), slot_unroller.unroller

    def on_device(tree: PyTree) -> PyTree:
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)

    def compiled(function: Callable[..., Any], *shapes: PyTree, donated: tuple[int, ...] = (0,)) -> Callable[..., Any]:
        jitted = jax.jit(function, donate_argnums=donated, out_shardings=sharding)
        return jitted.lower(*on_device(shapes)).compile()

    group, _ = slot_unroller.shape_of(unroller.num_envs)
    column, index = (jax.ShapeDtypeStruct((unroller.num_envs,), dtype) for dtype in (np.int32, np.uint32))
    slots, version = jax.eval_shape(slot_unroller.init), jax.ShapeDtypeStruct((), np.int32)
    acted = functools.partial(compiled, slot_unroller.act, unroller.params_shape, version, slots, donated=(2,))
    return SlotPrograms(
        init=compiled(slot_unroller.init, donated=()),
        open=compiled(slot_unroller.open, slots, column, index),
        act={size: acted(*slot_unroller.shape_of(size)) for size in sorted(sizes)},
        finish=compiled(slot_unroller.finish, slots, group, column),
        read=compiled(
            slot_unroller.read,
            *(slots, column, index, jax.ShapeDtypeStruct((), np.bool_)),
            donated=(),
        ),
        timestep=group,
    )


def _scatter(buffers: PyTree, index: tuple[jax.Array, ...], tree: PyTree) -> PyTree:
    """Writes [K, ...] at K places of the buffers' leading axes; places outside of them are left out."""
    return jax.tree.map(lambda buffer, x: buffer.at[index].set(x, mode="drop"), buffers, tree)
