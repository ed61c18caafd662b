"""The learner: parameters born sharded, and one jitted, donated update.

The update is written in the global view: the compiler splits it over the learner mesh's `data` axis and adds the
reductions of gradients and metrics. Rollouts arrive as one array per actor pool; they are joined *per device*, inside
the compiled update, so joining moves nothing.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from podrl.keys import LEARN, purpose_key
from podrl.mesh import ShardingRule, replicated, trajectory_sharding, tree_sharding
from podrl.types import Agent, LearnerState, Metrics, PyTree, Trajectory


class Learner:
    """Compiled programs of one agent on one learner mesh.

    Attributes:
        state_sharding: shardings of the `LearnerState`.
    """

    def __init__(self, agent: Agent, mesh: Mesh, rules: Sequence[ShardingRule] = ()):
        """Lays out the state; compiles nothing yet.

        Raises:
            ConfigError: if `rules` do not fit the parameters.
        """
        self._agent = agent
        self._mesh = mesh
        self._state_shape = jax.eval_shape(agent.init, jax.random.key(0))
        self.state_sharding = tree_sharding(mesh, self._state_shape, rules)
        self._update: Callable[..., Any] = jax.jit(
            self._join_and_update, donate_argnums=0, out_shardings=(self.state_sharding, replicated(mesh))
        )
        self._actor_params: Callable[..., Any] = jax.jit(self._copy_actor_params, out_shardings=replicated(mesh))
        self._fingerprint: Callable[..., Any] = jax.jit(fingerprint, out_shardings=replicated(mesh))

    def init(self, seed: int) -> LearnerState:
        """A fresh state, each leaf created on the devices where it lives."""
        return jax.jit(self._agent.init, out_shardings=self.state_sharding)(purpose_key(seed, LEARN))

    @property
    def state_shape(self) -> LearnerState:
        """Shapes, dtypes and shardings of the state."""
        return jax.tree.map(_with_sharding, self._state_shape, self.state_sharding)

    def compile(self, rollouts: Sequence[Trajectory]) -> jax.stages.Compiled:
        """Compiles the update ahead of time.

        Args:
            rollouts: shapes (`jax.ShapeDtypeStruct`) of the global rollouts that one update joins.

        Returns:
            The compiled update, for inspection; `update` uses it from now on.
        """
        rollouts = tuple(
            jax.tree.map(_with_sharding, rollout, trajectory_sharding(self._mesh, rollout)) for rollout in rollouts
        )
        state = self.state_shape
        compiled = _compile(self._update, state, rollouts)
        self._update = compiled
        self._actor_params = _compile(self._actor_params, state)
        self._fingerprint = _compile(self._fingerprint, state.params)
        return compiled

    def update(self, state: LearnerState, rollouts: Sequence[Trajectory]) -> tuple[LearnerState, Metrics]:
        """One learner step on the rollouts of all actor pools, joined in their order. Consumes `state`."""
        return self._update(state, tuple(rollouts))

    def actor_params(self, state: LearnerState) -> PyTree:
        """What actors need, as a copy that survives the next update, whole on every learner device."""
        return self._actor_params(state)

    def fingerprint(self, state: LearnerState) -> jax.Array:
        """[2] uint32 that changes with any bit of any parameter; see `fingerprint`."""
        return self._fingerprint(state.params)

    def _join_and_update(self, state: LearnerState, rollouts: tuple[Trajectory, ...]) -> tuple[LearnerState, Metrics]:
        trajectory = join_environments(self._mesh, rollouts)
        lag = (state.step - trajectory.params_version).astype(jnp.float32)
        new_state, metrics = self._agent.update(state, trajectory)
        return new_state, {**metrics, "lag/mean": jnp.mean(lag), "lag/max": jnp.max(lag)}

    def _copy_actor_params(self, state: LearnerState) -> PyTree:
        return jax.tree.map(jnp.copy, self._agent.actor_params(state))


def join_environments(mesh: Mesh, rollouts: tuple[Trajectory, ...]) -> Trajectory:
    """Joins rollouts along their environments, each device its own shards: no data moves between devices."""
    if len(rollouts) == 1:
        return rollouts[0]
    specs = jax.tree.map(lambda sharding: sharding.spec, trajectory_sharding(mesh, rollouts[0]))

    def join(*local: Trajectory) -> Trajectory:
        return jax.tree.map(lambda spec, *xs: jnp.concatenate(xs, axis=len(spec) - 1), specs, *local, is_leaf=_is_spec)

    return jax.shard_map(join, mesh=mesh, in_specs=(specs,) * len(rollouts), out_specs=specs)(*rollouts)


def fingerprint(params: PyTree) -> jax.Array:
    """A hash of all bits of `params` that does not depend on how they are sharded or in which order they are summed.

    Each 32-bit word is mixed with its position and summed modulo 2**32 in two lanes; integer sums are exact in any
    order, so any split over devices gives the same value.

    Returns:
        [2] uint32.
    """
    lanes = jnp.zeros(2, jnp.uint32)
    for index, leaf in enumerate(jax.tree.leaves(params)):
        unsigned = jnp.dtype(f"uint{8 * leaf.dtype.itemsize}")
        words = jax.lax.bitcast_convert_type(leaf, unsigned).astype(jnp.uint32).reshape(-1)
        position = jnp.arange(words.size, dtype=jnp.uint32) + jnp.uint32((index * 0x9E3779B9) & 0xFFFFFFFF)
        mixed = [_mix(words ^ _mix(position + jnp.uint32(lane))) for lane in (1, 2)]
        lanes += jnp.stack([jnp.sum(lane, dtype=jnp.uint32) for lane in mixed])
    return lanes


def _mix(x: jax.Array) -> jax.Array:
    """The finalizer of MurmurHash3: every input bit changes about half of the output bits."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def _compile(function: Any, *shapes: PyTree) -> jax.stages.Compiled:
    return function.lower(*shapes).compile()


def _with_sharding(leaf: jax.ShapeDtypeStruct, sharding: jax.sharding.Sharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _is_spec(node: object) -> bool:
    return isinstance(node, PartitionSpec)
