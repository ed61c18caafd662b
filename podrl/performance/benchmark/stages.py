"""How fast each stage of a run is by itself: one function per stage, each returns a `StageTime`.

A stage drives podrl's own parts, laid out as the run would be: its pools, compiled programs and parameter store. It
ends by the clock, with a whole unroll or update.
"""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import dataclasses
import time
from typing import Any, cast

import jax
import numpy as np

from podrl.assembly import assemble
from podrl.config.config import Config
from podrl.envs.opening import make_pool
from podrl.envs.seeds import env_seeds
from podrl.envs.source import Pool, Source
from podrl.experience.actor_threads import ActorThreads
from podrl.experience.handoff import Rollout
from podrl.experience.layout import default_env_threads
from podrl.experience.parameters import ParameterStore
from podrl.experience.schedule import make_schedule, max_lag, warm_up_updates
from podrl.experience.transfer import join_rollouts, rollout_to_learner
from podrl.learning.programs import FusedPrograms
from podrl.learning.replay import updates_before_learning
from podrl.learning.update_cost import tree_bytes
from podrl.loops.interface import Assembly
from podrl.performance.benchmark.instruments import Clocks, StageTime, time_threads
from podrl.performance.benchmark.random_play import make_random_play, step_pools
from podrl.performance.benchmark.workers import check_measurable, env_workers
from podrl.performance.composition import Overlap
from podrl.types import PyTree, Timestep

_ENDLESS_UPDATES = 1_000_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parts(Assembly):
    """What a run is made of, compiled, nothing of it started; its config is so long that it never ends by itself."""

    programs: Any  # `Programs`, or `FusedPrograms` where environments are inside; no stage consumes anything of them.
    compile_s: float

    @property
    def is_fused(self) -> bool:
        """Whether environments are inside the compiled program."""
        return isinstance(self.programs, FusedPrograms)

    @property
    def actor_devices(self) -> list[jax.Device]:
        """The device of each actor thread."""
        return [d for d in self.topology.local_actor_devices for _ in range(self.config.actors.threads_per_device)]

    @property
    def steps_per_unroll(self) -> int:
        """Env steps in the unrolls of one actor thread's pools."""
        return self.config.actors.unroll_length * self.layout.pools_per_actor * self.layout.envs_per_pool

    @property
    def shares_device(self) -> bool:
        """Whether one accelerator acts and learns; a CPU's devices do not wait for each other, they share cores."""
        actors, learners = {*self.topology.local_actor_devices}, {*self.topology.local_learner.devices.flat}
        return not actors.isdisjoint(learners) and next(iter(learners)).platform != "cpu"

    @property
    def overlap(self) -> Overlap:
        """Which stages go on at the same time."""
        in_turn = max_lag(self.config) == 0 or self.shares_device
        return Overlap(several_pools=self.layout.pools_per_actor > 1, in_turn=in_turn)

    @property
    def env_threads(self) -> int:
        """C++ threads of each pool; 0 without pools."""
        return 0 if self.is_fused else self.config.actors.env_threads or default_env_threads(self.layout)

    @property
    def parameter_bytes(self) -> int:
        """Bytes of all parameters, which an optimizer step sums up between processes."""
        return tree_bytes(self.programs.learner.state_shape.params)


def make_parts(config: Config, devices: Sequence[jax.Device] | None = None) -> Parts:
    """Puts a run together as training does, and compiles."""
    check_measurable(config, jax.process_count())
    endless = dataclasses.replace(config, total_env_steps=_ENDLESS_UPDATES * config.env_steps_per_update)
    assembly = assemble(endless, devices)
    start_s = time.perf_counter()
    programs = assembly.compile()
    programs.learner.init(config.seed)  # Compiles it; every stage makes its own state.
    return Parts(**vars(assembly), programs=programs, compile_s=time.perf_counter() - start_s)


@contextlib.contextmanager
def running_actors(parts: Parts, config: Config) -> Iterator[tuple[ActorThreads, Callable[[int], None]]]:
    """The run's own actors, started, and a function that gives them the first parameters as those of an update."""
    learner, acting = parts.programs.learner, parts.programs.acting
    params = learner.actor_params(learner.init(config.seed))
    schedule = make_schedule(config)
    with env_workers(config), ActorThreads(config, parts.source, parts.topology, acting, schedule) as actors:
        actors.publish(0, params)
        actors.start()
        yield actors, lambda update: actors.publish(update, params)


def record_rollouts(parts: Parts) -> list[Rollout]:
    """The rollouts of one update, made by the run's own actors, on the learner devices."""
    with running_actors(parts, dataclasses.replace(parts.config, total_env_steps=1)) as (actors, _):
        return _take(actors, 0)


def _take(actors: ActorThreads, update: int) -> list[Rollout]:
    """Waits for the rollouts that this update would learn from."""
    return cast(list[Rollout], actors.take(update, lambda: False))


def time_collect(parts: Parts, seconds: float) -> StageTime:
    """The run's own actors without its learner: environments, acting, hand-off and transfer, together as in a run."""
    config, warm_up = parts.config, warm_up_updates(parts.config)
    without_boundaries = dataclasses.replace(config, checkpoint=dataclasses.replace(config.checkpoint, every_updates=0))
    with running_actors(parts, without_boundaries) as (actors, publish):
        start, update = Clocks.now(), 0
        while update <= warm_up or time.perf_counter() < start.wall_s + seconds:
            jax.block_until_ready([rollout.trajectories for rollout in _take(actors, update)])
            update += 1
            publish(update)
            start = Clocks.now() if update == warm_up else start
        return start.sample((update - warm_up) * config.env_steps_per_update, Clocks.now())


def open_pools(parts: Parts, source: Source, stack: contextlib.ExitStack) -> list[list[Pool]]:
    """The pools of every actor thread, as the run would make them of this source."""
    config, layout = parts.config, parts.layout

    def open_pool(indices: np.ndarray) -> Pool:
        seeds = env_seeds(config.seed, [int(env) for env in indices])
        numbers = indices.tolist()
        made = make_pool(source, config.env, seeds=seeds, env_numbers=numbers, num_threads=parts.env_threads)
        return stack.enter_context(contextlib.closing(made))

    pools = range(layout.pools_per_actor)
    return [[open_pool(layout.env_indices(0, actor, pool)) for pool in pools] for actor in range(layout.num_actors)]


def time_env(
    parts: Parts, pools: Sequence[Sequence[Pool]], timesteps: Sequence[list[Timestep]], seconds: float
) -> StageTime:
    """Environments alone: each actor thread takes turns with its pools, as in a run, and sends random actions.

    `timesteps` are the newest of each pool, before and after.
    """
    num_envs = parts.layout.envs_per_pool
    act = make_random_play(parts.spec, num_envs, parts.config.seed)

    def step(actor: int, turns: Iterator[int]) -> int:
        return step_pools(pools[actor], timesteps[actor], act, turns) * num_envs

    return time_threads(step, parts.layout.num_actors, seconds)


def time_act(parts: Parts, timesteps: Sequence[Sequence[Timestep]], seconds: float) -> StageTime:
    """Acting alone: whole unrolls with one fixed timestep per pool; sends it to the device and fetches the actions."""
    learner = parts.programs.learner
    learned = learner.actor_params(learner.init(parts.config.seed))
    params = jax.block_until_ready({device: jax.device_put(learned, device) for device in parts.actor_devices})

    def act(actor: int, turns: Iterator[int]) -> int:
        device = parts.actor_devices[actor]
        acting = parts.programs.acting[device]
        indices = [parts.layout.env_indices(0, actor, pool) for pool in range(len(timesteps[actor]))]
        states = [acting.init(*jax.device_put((pool_indices, np.int32(0)), device)) for pool_indices in indices]
        for turn in turns:
            for _ in range(parts.config.actors.unroll_length):
                for pool, timestep in enumerate(timesteps[actor]):
                    version, on_device = jax.device_put((np.int32(0), timestep), device)
                    action, states[pool] = acting.act(params[device], version, states[pool], on_device)
                    np.asarray(action)
            for pool, timestep in enumerate(timesteps[actor]):
                _, states[pool] = acting.finish(states[pool], jax.device_put(timestep, device))
            jax.block_until_ready(states)
            env_steps = turn * parts.steps_per_unroll
        return env_steps

    return time_threads(act, parts.layout.num_actors, seconds)


def time_transfer(parts: Parts, rollouts: Sequence[Rollout], seconds: float) -> StageTime:
    """Rollouts alone, from actor to learner devices; the actors of all devices at the same time."""
    unrolls = [jax.device_put(r.trajectories, d) for r, d in zip(rollouts, parts.actor_devices, strict=True)]
    jax.block_until_ready(unrolls)

    def move(actor: int, turns: Iterator[int]) -> int:
        for turn in turns:
            moved = [rollout_to_learner(unroll, parts.topology.local_learner) for unroll in unrolls[actor]]
            jax.block_until_ready(moved)
            env_steps = turn * parts.steps_per_unroll
        return env_steps

    return time_threads(move, parts.layout.num_actors, seconds)


def time_learn(parts: Parts, rollouts: Sequence[Rollout], seconds: float) -> StageTime:
    """Learning alone, on the same rollouts again and again, with parameters published after each update."""
    learner = parts.programs.learner
    trajectories = join_rollouts(rollouts, parts.topology)
    parameters = ParameterStore(parts.topology.local_actor_devices)

    def learn(state: PyTree, turn: int) -> tuple[PyTree, PyTree]:
        state, metrics = learner.update(state, trajectories)
        parameters.publish(turn, learner.actor_params(state))
        return state, metrics

    return _time_updates(parts, learn, 1, seconds)


def time_program(parts: Parts, seconds: float) -> StageTime:
    """The compiled program of a run whose environments are inside it, call after call."""
    learner = parts.programs.learner
    return _time_updates(parts, lambda state, _: learner.run(state, learner.max_updates), learner.max_updates, seconds)


def _time_updates(
    parts: Parts, call: Callable[[PyTree, int], tuple[PyTree, PyTree]], updates_per_call: int, seconds: float
) -> StageTime:
    """Times calls from state to state; as in a run, one is waited for when the next is in flight.

    A replay is filled first, until updates learn.
    """
    state = parts.programs.learner.init(parts.config.seed)
    for turn in range(-(-updates_before_learning(parts.config) // updates_per_call)):
        state, _ = call(state, turn)
    jax.block_until_ready(state)

    def update(_: int, turns: Iterator[int]) -> int:
        nonlocal state
        in_flight = None
        for turn in turns:
            state, metrics = call(state, turn)
            jax.block_until_ready(in_flight)
            in_flight = metrics
        jax.block_until_ready((state, in_flight))
        return turn * updates_per_call * parts.config.env_steps_per_update

    return time_threads(update, 1, seconds)
