"""The learner: parameters that are created sharded, and one jitted, donated update.

The update is written in the global view: the compiler splits it over the learner mesh's `data` axis and adds the
reductions of gradients and metrics. Rollouts arrive as one array per actor pool. They are joined *per device*, inside
the compiled update, so joining moves no data. What else an update can be given is in `podrl.learning.intake`.
"""

from collections.abc import Callable, Sequence
import dataclasses
from typing import Any

import jax
from jax import numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from podrl.agents.parts.interface import Agent
from podrl.agents.parts.nonfinite import skip_nonfinite
from podrl.agents.parts.updating import make_init_with_replay, make_update
from podrl.learning.intake import Intake, take_rollouts
from podrl.mesh import ShardingRule, path_name, replicated, tree_sharding
from podrl.ops.fingerprint import fingerprint
from podrl.ops.keys import LEARN, purpose_key
from podrl.replay.interface import Replay
from podrl.types import LearnerState, Metrics, PyTree

_EXPERIENCE = ("batches", "rows", "carry")  # Fields of rings that are large, and hashed in checkpoints only.


class Learner:
    """Compiled programs of one agent on one learner mesh.

    Attributes:
        make_state: (key) -> a fresh state, the replay's ring included.
        state_sharding: The shardings of the `LearnerState`.
        num_fingerprints: How many `fingerprint` computes: 2, with replay 3.
    """

    def __init__(
        self,
        agent: Agent,
        mesh: Mesh,
        rules: Sequence[ShardingRule] = (),
        max_lag: int = 1,
        *,
        skips_nonfinite: bool = False,
        replay: Replay | None = None,
        rolls_draws: bool = True,
        intake: Intake | None = None,
    ):
        """Decides the layout of the state, without compiling.

        Args:
            agent: The algorithm.
            mesh: The learner's devices.
            rules: The layout of wide parameters.
            max_lag: The largest policy lag of rollouts that occurs, in updates.
            skips_nonfinite: Whether an update that is not finite leaves the state as it was.
            replay: What the agent learns from in place of fresh rollouts; None to learn from those.
            rolls_draws: See `podrl.agents.parts.updating.make_update`.
            intake: What an update is given; by default a list of rollouts, with one of each actor pool.

        Raises:
            ConfigError: If `rules` do not fit the parameters.
        """
        self._agent, update = agent, make_update(agent, replay, rolls_draws=rolls_draws)
        self._learn = skip_nonfinite(update) if skips_nonfinite else update
        self._mesh = mesh
        self._intake = intake or take_rollouts(mesh, max_lag)
        self.make_state = make_init_with_replay(agent, replay)
        self._state_shape = jax.eval_shape(self.make_state, jax.random.key(0))
        self.state_sharding = learner_sharding(mesh, self._state_shape, rules)
        self.num_fingerprints = 2 + (replay is not None)
        self._init: Callable[..., Any] = jax.jit(self.make_state, out_shardings=self.state_sharding)
        self._jitted: Any = jax.jit(
            self._take_and_update, donate_argnums=0, out_shardings=(self.state_sharding, replicated(mesh))
        )
        self._jitted_params: Any = jax.jit(self._copy_actor_params, out_shardings=replicated(mesh))
        self._jitted_hash: Any = jax.jit(self._hash, out_shardings=replicated(mesh))
        # These are replaced by programs that are compiled ahead of time, once that is asked for.
        self._update: Any = self._jitted
        self._actor_params: Any = self._jitted_params
        self._fingerprint: Any = self._jitted_hash

    def init(self, seed: int) -> LearnerState:
        """Creates a fresh state, each leaf on the devices where it stays."""
        return self._init(purpose_key(seed, LEARN))

    def compile_init(self) -> jax.stages.Compiled:
        """Compiles the creation of a fresh state ahead of time, for inspection; `init` uses it from now on."""
        self._init = compiled = _compile(self._init, jax.eval_shape(jax.random.key, 0))
        return compiled

    @property
    def state_shape(self) -> LearnerState:
        """Shapes, dtypes and shardings of the state."""
        return jax.tree.map(_with_sharding, self._state_shape, self.state_sharding)

    def compile(self, given: PyTree) -> jax.stages.Compiled:
        """Compiles the update ahead of time.

        Args:
            given: Shapes (`jax.ShapeDtypeStruct`) of what one update is given, in the global view.

        Returns:
            The compiled update, for inspection; `update` uses it from now on.
        """
        given, state = self._laid_out(given), self.state_shape
        compiled = self.trace(given).lower().compile()
        self._update = compiled
        self._actor_params = _compile(self._jitted_params, state)
        self._fingerprint = _compile(self._jitted_hash, state.params, given, accounts(state.replay))
        return compiled

    def trace(self, given: PyTree) -> jax.stages.Traced:
        """Traces the update for shapes as `compile` takes them, for compilation or inspection."""
        return self._jitted.trace(self.state_shape, self._laid_out(given))

    def update(self, state: LearnerState, given: PyTree) -> tuple[LearnerState, Metrics]:
        """Makes one update, of rollouts on those of all actor pools, joined in their order. Consumes `state`."""
        return self._update(state, _packed(given))

    def actor_params(self, state: LearnerState) -> PyTree:
        """Returns the parameters that act, as a copy that survives the next update, whole on every learner device."""
        return self._actor_params(state)

    def fingerprint(self, state: LearnerState, given: PyTree) -> jax.Array:
        """Computes the fingerprints of an update's result and of its batch; see `podrl.ops.fingerprint`.

        Args:
            state: The state after the update.
            given: What the update was given.

        Returns:
            [2, 2] uint32: the fingerprint of the parameters, and that of the batch. With replay [3, 2]: also that of
            what decides the replay's draws, see `accounts`.
        """
        return self._fingerprint(state.params, _packed(given), accounts(state.replay))

    def _laid_out(self, given: PyTree) -> PyTree:
        """Returns the same shapes with shardings that lay them out on the learner's devices."""
        given = _packed(given)
        return jax.tree.map(_with_sharding, given, self._intake.shardings(given))

    def _take_and_update(self, state: LearnerState, given: PyTree) -> tuple[LearnerState, Metrics]:
        fresh = self._intake.fresh(given)
        new_state, metrics = self._learn(state, fresh)
        return new_state, {**metrics, **self._intake.tell(state, fresh)}

    def _hash(self, params: PyTree, given: PyTree, replay: PyTree) -> jax.Array:
        trees = (params, self._intake.hashed(given), replay)
        return jnp.stack([fingerprint(tree) for tree in trees[: self.num_fingerprints]])

    def _copy_actor_params(self, state: LearnerState) -> PyTree:
        return jax.tree.map(jnp.copy, self._agent.actor_params(state))


def learner_sharding(mesh: Mesh, state: LearnerState, rules: Sequence[ShardingRule] = ()) -> LearnerState:
    """Returns the shardings of a learner's state by path rules, but of `replay` as `podrl.replay.interface` says."""
    split, whole = NamedSharding(mesh, PartitionSpec("data")), replicated(mesh)
    sharding = tree_sharding(mesh, dataclasses.replace(state, replay=()), rules)

    def choose(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> NamedSharding:
        return whole if not leaf.ndim or path_name(path).split("/")[0] == "counts" else split

    return dataclasses.replace(sharding, replay=jax.tree_util.tree_map_with_path(choose, state.replay))


def accounts(ring: PyTree) -> dict[str, jax.Array]:
    """Returns a ring's arrays except the experience itself, by path: counts, keys and priorities.

    What an update has drawn shows in them: in the uses that are left, the key of the next draws, the priorities.
    """
    leaves = {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(ring)}
    return {name: leaf for name, leaf in leaves.items() if name.split("/")[0] not in _EXPERIENCE}


def _packed(given: PyTree) -> PyTree:
    """Returns a list of rollouts as a tuple, which is another pytree to a compiled program."""
    return tuple(given) if isinstance(given, list) else given


def _compile(function: Any, *shapes: PyTree) -> jax.stages.Compiled:
    return function.lower(*shapes).compile()


def _with_sharding(leaf: jax.ShapeDtypeStruct, sharding: jax.sharding.Sharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
