"""Acting, environments and learning fused into one jitted, donated program over the whole mesh.

Every device steps its share of the environments and acts with a whole copy of the parameters, so acting moves nothing
between devices. The update is that of `podrl.learning.learner`, in the global view. One call makes as many updates as
the caller asks for, up to a bound, and does not return to the host in between.

Source: the Anakin architecture of Hessel et al. 2021, arXiv:2104.06272.
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
from typing import Any

import jax
from jax import numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np

from podrl.agents.parts.interface import Agent
from podrl.config.config import Config
from podrl.envs.action_masks import count_stuck
from podrl.envs.pools.info_in_graph import make_in_graph_tally
from podrl.envs.source import JaxEnvironment
from podrl.experience.in_graph_unroll import EnvironmentsState, InGraphUnroller, check_first_timestep
from podrl.experience.layout import make_layout
from podrl.experience.unroll import Unroller
from podrl.learning.fused_report import FusedUpdate, Report, empty_report, enter_update, report_sharding
from podrl.learning.learner import Learner
from podrl.learning.micro_batches import runs_in_loops
from podrl.learning.replay import make_replay
from podrl.mesh import ShardingRule, Topology, replicated
from podrl.ops.keys import LEARN, purpose_key
from podrl.types import EnvSpec, FusedState, LearnerState, PyTree

_SPLIT = PartitionSpec("data")
_SPLIT_ROWS = PartitionSpec(None, "data")


class FusedLearner:
    """The compiled program of one agent and its environments on one mesh.

    Attributes:
        learner: The learner that makes the updates.
        max_updates: K, the most updates in one call.
        num_seeds: 1; of several see `podrl.learning.seeds`.
        info_names: [N] names of the numbers of `info` that episodes have.
    """

    num_seeds = 1

    def __init__(
        self,
        config: Config,
        agent: Agent,
        environment: JaxEnvironment,
        spec: EnvSpec,
        topology: Topology,
        rules: Sequence[ShardingRule] = (),
        *,
        in_loop: bool | None = None,
    ):
        """Decides the layout of the state, without compiling.

        Args:
            config: The run's config.
            agent: The algorithm.
            environment: The environment's functions.
            spec: The spec of one environment.
            topology: The devices; the learner mesh both acts and learns.
            rules: The layout of wide parameters.
            in_loop: Whether steps and updates are loops of the program. None chooses what suits the devices; a planner,
                whose devices stand for others, has to choose itself.

        Raises:
            ConfigError: If the environments or parameters do not divide over the devices.
        """
        make_layout(config, topology)
        self._config, self._agent, self._mesh = config, agent, topology.learner
        self._in_loop = in_loop = runs_in_loops(config, topology) if in_loop is None else in_loop
        self.max_updates = config.topology.updates_per_call if in_loop else 1
        self.learner = Learner(
            agent,
            self._mesh,
            rules,
            max_lag=0,
            skips_nonfinite=config.on_nonfinite == "skip",
            replay=make_replay(config, agent, spec, self._mesh),
            rolls_draws=in_loop,
        )
        num_envs = config.actors.num_envs // self._mesh.shape["data"]
        unroller = Unroller(agent=agent, spec=spec, unroll_length=config.actors.unroll_length, num_envs=num_envs)
        tally = make_in_graph_tally(config.log.info_keys, environment, spec, num_envs)
        self._acting = InGraphUnroller(unroller=unroller, environment=environment, in_loop=in_loop, tally=tally)
        self.info_names = tally.names if tally else ()
        check_first_timestep(self._acting)
        make_state = functools.partial(self.make_state, seed=config.seed)
        self._state_shape: FusedState = jax.eval_shape(make_state, jax.random.key(0))
        self.state_sharding = self._shardings()
        self._init: Callable[..., Any] = jax.jit(make_state, out_shardings=self.state_sharding)
        report = report_sharding(self._mesh, num_seeds=1)
        make_updates = functools.partial(self.make_updates, seed=config.seed)
        self._jitted: Any = jax.jit(make_updates, donate_argnums=0, out_shardings=(self.state_sharding, report))
        self._run: Any = self._jitted  # Or compiled ahead of time, once that is asked for.

    @property
    def state_shape(self) -> FusedState:
        """Shapes, dtypes and shardings of the state."""
        return jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            self._state_shape,
            self.state_sharding,
        )

    def init(self, seed: int) -> FusedState:
        """Creates a fresh state with newly opened environments, each leaf on the devices where it stays."""
        return self._init(purpose_key(seed, LEARN))

    def compile(self) -> jax.stages.Compiled:
        """Compiles the program ahead of time; `run` uses the result from now on."""
        self._run = compiled = self.trace().lower().compile()
        return compiled

    def trace(self) -> jax.stages.Traced:
        """Traces the program, for compilation or inspection."""
        num = jax.ShapeDtypeStruct((), jnp.int32, sharding=replicated(self._mesh))
        return self._jitted.trace(self.state_shape, num)

    def run(self, state: FusedState, num_updates: int) -> tuple[FusedState, Report]:
        """Starts making updates, without waiting for them.

        Args:
            state: The state; consumed.
            num_updates: The number of updates, 1 to `max_updates`.

        Raises:
            ValueError: If `num_updates` is outside that range.
        """
        self.check_num(num_updates)
        # `device_put` would wait for the other processes here, to check that all have the same number.
        number = np.asarray(num_updates, np.int32)
        return self._run(state, jax.make_array_from_callback((), replicated(self._mesh), lambda _: number))

    def check_num(self, num_updates: int) -> None:
        """Raises ValueError unless a call can make this number of updates."""
        if not 1 <= num_updates <= self.max_updates:
            raise ValueError(f"Found num_updates={num_updates}; expected 1 to {self.max_updates}.")

    def actor_params(self, state: FusedState, index: int = 0) -> PyTree:
        """Returns the parameters that act (of seed 0 of 1), a copy that survives the next call, on every device."""
        return self.learner.actor_params(state.learner)

    def take(self, state: FusedState, index: int) -> FusedState:
        """Returns the state itself, which is that of seed 0 of 1; see `podrl.learning.seeds.SeedsLearner.take`."""
        return state

    def make_state(self, key: jax.Array, seed: int | jax.Array) -> FusedState:
        """Returns a fresh state; a function to be compiled.

        Args:
            key: The key of learning, see `init`.
            seed: The run's seed, for environments and acting.
        """
        open_environments = self._on_shares(self._acting.init, seed, (), _SPLIT)
        return _join(self.learner.make_state(key), open_environments())

    def make_updates(
        self, state: FusedState, num_updates: jax.Array, seed: int | jax.Array
    ) -> tuple[FusedState, Report]:
        """Makes the updates of a call; a function to be compiled.

        Args:
            state: The state.
            num_updates: [] int32; the number of updates, 1 to `max_updates`.
            seed: The run's seed, for environments and acting.
        """
        make_update = functools.partial(self._make_update, seed)
        shapes = jax.eval_shape(make_update, state)[1]
        empty = empty_report(shapes, self.max_updates, self.learner.num_fingerprints)

        def make_one(index: jax.Array, loop: tuple[FusedState, Report]) -> tuple[FusedState, Report]:
            state, report = loop
            new_state, update = make_update(state)
            fingerprint = jax.lax.cond(
                index == num_updates - 1,
                lambda: self.learner.fingerprint(new_state.learner, (update.trajectory,)),
                lambda: report.fingerprint,
            )
            return new_state, enter_update(report, index, update, fingerprint)

        if not self._in_loop:
            return make_one(jnp.zeros((), jnp.int32), (state, empty))
        return jax.lax.fori_loop(0, num_updates, make_one, (state, empty))

    def _make_update(self, seed: int | jax.Array, state: FusedState) -> tuple[FusedState, FusedUpdate]:
        """Acts for one unroll and learns from it."""
        specs = self._acting.unroller.state_shape.rollout.map(lambda _: _SPLIT_ROWS, lambda _: _SPLIT)
        unroll = self._on_shares(
            self._acting.unroll, seed, (PartitionSpec(), PartitionSpec(), _SPLIT), (specs, _SPLIT_ROWS, _SPLIT)
        )
        params = self.learner.actor_params(state.learner)
        trajectory, episodes, environments = unroll(params, state.step, state.environments)
        learner, metrics = self.learner.update(state.learner, (trajectory,))
        num_stuck = count_stuck(trajectory, self._acting.unroller.spec.actions)
        update = FusedUpdate(trajectory=trajectory, metrics=metrics, episodes=episodes, num_stuck=num_stuck)
        return _join(learner, environments), update

    def _on_shares(
        self, function: Callable[..., Any], seed: int | jax.Array, in_specs: tuple, out_specs: PyTree
    ) -> Callable[..., Any]:
        """Maps a method (seed, env_indices, ...) of the unroller over the devices, each with its own environments."""
        local = jax.shard_map(
            function,
            mesh=self._mesh,
            in_specs=(PartitionSpec(), _SPLIT, *in_specs),
            out_specs=out_specs,
            check_vma=False,  # A loop starts from a state that all devices share, and continues with one per device.
        )
        indices = jnp.arange(self._config.actors.num_envs, dtype=jnp.uint32)
        return functools.partial(local, jnp.asarray(seed, jnp.uint32), indices)

    def _shardings(self) -> FusedState:
        split = NamedSharding(self._mesh, _SPLIT)
        environments = jax.tree.map(lambda _: split, self._state_shape.environments)
        return _join(self.learner.state_sharding, environments)


def _join(learner: LearnerState, environments: EnvironmentsState) -> FusedState:
    fields = {field.name: getattr(learner, field.name) for field in dataclasses.fields(LearnerState)}
    return FusedState(**fields, environments=environments)
