"""Several seeds of one config in one compiled program.

The program of one seed is mapped over seeds: every array of its state and of its reports gets the axis [n] in front,
and the devices compute all seeds at once. Seeds share nothing but the number of updates in a call. Each starts from the
state of a run of that seed alone, bit for bit, and draws the same random numbers. Sums of floats may be taken in
another order than alone, so that parameters differ in their last digits from the first update on.
"""

from collections.abc import Sequence
from typing import Any

import jax
from jax import numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np

from podrl.config.config import Config, check
from podrl.learning.fused import FusedLearner
from podrl.learning.fused_report import Report, report_sharding
from podrl.mesh import Topology, replicated
from podrl.ops.keys import LEARN, purpose_key
from podrl.types import FusedState, PyTree


class SeedsLearner:
    """The compiled program of several seeds.

    Attributes:
        single: The functions and layouts of one seed; its own program is never compiled.
        learner: The learner that makes each seed's updates.
        num_seeds: n.
        max_updates: K, the most updates in one call.
        info_names: [N] names of the numbers of `info` that episodes have.
        state_sharding: The shardings of the state of all seeds.
    """

    def __init__(self, single: FusedLearner, mesh: Mesh, *, first_seed: int, num_seeds: int):
        """Decides the layout of the state, without compiling.

        Args:
            single: One seed.
            mesh: Its devices.
            first_seed: The first of the seeds, which follow one another.
            num_seeds: The number of seeds.
        """
        self._first_seed = first_seed
        self.single, self.learner, self.num_seeds = single, single.learner, num_seeds
        self.max_updates, self.info_names = single.max_updates, single.info_names
        self._mesh = mesh

        def stacked(sharding: NamedSharding) -> NamedSharding:
            return NamedSharding(mesh, PartitionSpec(None, *sharding.spec))

        self.state_sharding: FusedState = jax.tree.map(stacked, single.state_sharding)
        report = report_sharding(mesh, num_seeds=num_seeds)
        self._init: Any = jax.jit(self._make_states, out_shardings=self.state_sharding)
        self._jitted: Any = jax.jit(self._make_updates, donate_argnums=0, out_shardings=(self.state_sharding, report))
        self._run: Any = self._jitted  # Or compiled ahead of time, once that is asked for.
        self._take: Any = jax.jit(_take, out_shardings=single.state_sharding)
        self._actor_params: Any = jax.jit(self._take_params, out_shardings=replicated(mesh))

    @property
    def state_shape(self) -> FusedState:
        """Shapes, dtypes and shardings of the state of all seeds."""

        def widen(leaf: jax.ShapeDtypeStruct, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((self.num_seeds, *leaf.shape), leaf.dtype, sharding=sharding)

        shape: FusedState = jax.tree.map(widen, self.single.state_shape, self.state_sharding)
        return shape

    def init(self, seed: int) -> FusedState:
        """Creates the fresh states of `seed` and the seeds after it; each equals that of a run of this seed alone."""
        state: FusedState = self._init(self._seeds(seed))
        return state

    def stack(self, states: Sequence[FusedState]) -> FusedState:
        """Returns the state of all seeds, made of one of each; these are consumed, one array after the other."""
        shardings, structure = jax.tree.flatten(self.state_sharding)
        parts = [jax.tree.leaves(state) for state in states]
        programs: dict[NamedSharding, Any] = {}
        stacked = []
        for sharding, *leaves in zip(shardings, *parts, strict=True):
            stack = programs.setdefault(sharding, jax.jit(_stack, out_shardings=sharding))
            stacked.append(jax.block_until_ready(stack(*leaves)))
            for leaf in leaves:  # The devices never hold more than one array twice.
                leaf.delete()
        state: FusedState = jax.tree.unflatten(structure, stacked)
        return state

    def take(self, state: FusedState, index: int) -> FusedState:
        """Returns a copy of one seed's state, as a run of that seed alone has it."""
        part: FusedState = self._take(state, np.int32(index))
        return part

    def compile(self) -> jax.stages.Compiled:
        """Compiles the program ahead of time; `run` uses the result from now on."""
        self._run = compiled = self.trace().lower().compile()
        return compiled

    def trace(self) -> jax.stages.Traced:
        """Traces the program, for compilation or inspection."""
        num = jax.ShapeDtypeStruct((), jnp.int32, sharding=replicated(self._mesh))
        traced: jax.stages.Traced = self._jitted.trace(self.state_shape, num)
        return traced

    def run(self, state: FusedState, num_updates: int) -> tuple[FusedState, Report]:
        """Starts making updates of every seed, without waiting for them; see `FusedLearner.run`."""
        self.single.check_num(num_updates)
        new_state, report = self._run(state, jax.device_put(np.int32(num_updates), replicated(self._mesh)))
        return new_state, report

    def actor_params(self, state: FusedState, index: int) -> PyTree:
        """Returns the parameters of one seed that act, and copies nothing else; see `FusedLearner.actor_params`."""
        return self._actor_params(state, np.int32(index))

    def _take_params(self, state: FusedState, index: jax.Array) -> PyTree:
        return self.single.actor_params(_take(state, index))

    def _seeds(self, first: int) -> np.ndarray:
        """The seeds, [n] uint32."""
        return np.arange(first, first + self.num_seeds, dtype=np.uint32)

    def _make_states(self, seeds: jax.Array) -> FusedState:
        """Makes one state after the other, as each seed alone would: a batched program might round otherwise."""
        states: FusedState = jax.lax.map(lambda seed: self.single.make_state(purpose_key(seed, LEARN), seed), seeds)
        return states

    def _make_updates(self, state: FusedState, num_updates: jax.Array) -> tuple[FusedState, Report]:
        make = jax.vmap(self.single.make_updates, in_axes=(0, None, 0))
        new_state, report = make(state, num_updates, jnp.asarray(self._seeds(self._first_seed)))
        return new_state, report


def _stack(*leaves: jax.Array) -> jax.Array:
    return jnp.stack(leaves)


def _take(state: FusedState, index: jax.Array) -> FusedState:
    part: FusedState = jax.tree.map(lambda leaf: jax.lax.dynamic_index_in_dim(leaf, index, keepdims=False), state)
    return part


def check_seeds(config: Config, topology: Topology) -> None:
    """Raises `ConfigError` if several processes would train several seeds: each would have to gather all of them."""
    seeds, processes = config.topology.seeds, topology.num_processes
    check(
        seeds == 1 or processes == 1,
        f"topology.seeds={seeds} trains in one process, and this job has {processes}. Start one process, or a job with "
        "topology.seeds=1 for each seed.",
    )
