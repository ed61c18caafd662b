"""How fast each stage of a run is by itself, and the whole run: one function per stage, each returns a `Sample`.

A stage drives podrl's own parts, laid out as the run would be: its pools, compiled programs, parameter store and run
loop. It ends by the clock, with a whole unroll or update.
"""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import dataclasses
import time
from typing import Any, cast

import jax
import numpy as np

from podrl.assembly import assemble, run
from podrl.config.config import Config, check
from podrl.envs.seeds import env_seeds
from podrl.envs.source import Pool
from podrl.experience.actor_threads import ActorThreads
from podrl.experience.handoff import Rollout
from podrl.experience.layout import default_env_threads
from podrl.experience.parameters import ParameterStore
from podrl.experience.schedule import make_schedule, warm_up_updates
from podrl.experience.transfer import join_rollouts, rollout_to_learner
from podrl.learning.fused import FusedPrograms
from podrl.loops.boundaries import is_checkpoint_due
from podrl.loops.interface import Assembly, Hooks, Services
from podrl.networks.actor_critic import make_network
from podrl.performance.benchmark.instruments import Clocks, Sample, time_threads
from podrl.performance.benchmark.plain_loop import make_plain_loop
from podrl.runs.checkpoint import Checkpointer
from podrl.runtime.interruption import Stop
from podrl.runtime.temporary import temporary_folder
from podrl.types import Counters, DiscreteActions, Snapshot, Timestep

_ENDLESS_UPDATES = 1_000_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parts(Assembly):
    """What a run is made of, compiled, nothing of it started; its config is so long that it never ends by itself.

    Attributes:
        programs: compiled; no stage consumes anything of them.
        compile_s: seconds that compiling took.
    """

    programs: Any  # `Programs`, or `FusedPrograms` where environments are inside the compiled program.
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
    def env_threads(self) -> int:
        """C++ threads of each pool; 0 without pools."""
        if self.is_fused:
            return 0
        return self.config.actors.env_threads or default_env_threads(self.layout)


def make_parts(config: Config, devices: Sequence[jax.Device] | None = None) -> Parts:
    """Puts a run together as training does, and compiles.

    Args:
        config: of the run.
        devices: all that it has; by default `jax.devices()`.

    Raises:
        ConfigError: if the parts do not fit together, or the job has several processes.
    """
    check(
        jax.process_count() == 1,
        f"Found a job of {jax.process_count()} processes; the benchmark's stages end by the clock, which processes do "
        "not share. Run it in one process.",
    )
    endless = dataclasses.replace(config, total_env_steps=_ENDLESS_UPDATES * config.env_steps_per_update)
    assembly = assemble(endless, devices)
    start_s = time.perf_counter()
    programs = assembly.compile()
    programs.learner.init(config.seed)  # Compiles it; every stage makes its own state.
    return Parts(**vars(assembly), programs=programs, compile_s=time.perf_counter() - start_s)


def record_rollouts(parts: Parts) -> list[Rollout]:
    """The rollouts of one update, made by the run's own actors, on the learner devices."""
    once = dataclasses.replace(parts.config, total_env_steps=1)
    learner = parts.programs.learner
    with ActorThreads(once, parts.source, parts.topology, parts.programs.acting, make_schedule(once)) as actors:
        actors.publish(0, learner.actor_params(learner.init(once.seed)))
        actors.start()
        return cast(list[Rollout], actors.take(0, lambda: False))


def open_pools(parts: Parts, stack: contextlib.ExitStack) -> list[list[Pool]]:
    """The pools of every actor thread, as the run would make them."""
    config, layout = parts.config, parts.layout

    def open_pool(actor: int, pool: int) -> Pool:
        seeds = env_seeds(config.seed, [int(env) for env in layout.env_indices(0, actor, pool)])
        made = parts.source.make_pool(config.env, seeds=seeds, num_threads=parts.env_threads)
        return stack.enter_context(contextlib.closing(made))

    return [[open_pool(actor, pool) for pool in range(layout.pools_per_actor)] for actor in range(layout.num_actors)]


def time_env(parts: Parts, pools: Sequence[Sequence[Pool]], seconds: float) -> Sample:
    """Environments alone: each actor thread takes turns with its pools, as in a run, and sends random actions."""
    num_envs = parts.layout.envs_per_pool
    generator = np.random.default_rng(parts.config.seed)
    actions = parts.spec.actions.sample(generator, (1000, num_envs))

    def step(actor: int, turns: Iterator[int]) -> int:
        for pool in pools[actor]:
            pool.send(actions[0])
        for turn in turns:
            for pool in pools[actor]:
                pool.recv()
                pool.send(actions[turn % len(actions)])
        for pool in pools[actor]:
            pool.recv()
        return (turn + 1) * len(pools[actor]) * num_envs

    return time_threads(step, parts.layout.num_actors, seconds)


def time_act(parts: Parts, timesteps: Sequence[Sequence[Timestep]], seconds: float) -> Sample:
    """Acting alone: whole unrolls with one fixed timestep per pool; sends it to the device and fetches the actions."""
    learner = parts.programs.learner
    learned = learner.actor_params(learner.init(parts.config.seed))
    params = jax.block_until_ready({device: jax.device_put(learned, device) for device in parts.actor_devices})

    def act(actor: int, turns: Iterator[int]) -> int:
        device = parts.actor_devices[actor]
        acting = parts.programs.acting[device]
        indices = [parts.layout.env_indices(0, actor, pool) for pool in range(len(timesteps[actor]))]
        states = [acting.init(*jax.device_put((pool_indices, np.int32(0)), device)) for pool_indices in indices]
        env_steps = 0
        for _ in turns:
            for _ in range(parts.config.actors.unroll_length):
                for pool, timestep in enumerate(timesteps[actor]):
                    version, on_device = jax.device_put((np.int32(0), timestep), device)
                    action, states[pool] = acting.act(params[device], version, states[pool], on_device)
                    np.asarray(action)
            for pool, timestep in enumerate(timesteps[actor]):
                _, states[pool] = acting.finish(states[pool], jax.device_put(timestep, device))
            jax.block_until_ready(states)
            env_steps += parts.steps_per_unroll
        return env_steps

    return time_threads(act, parts.layout.num_actors, seconds)


def time_transfer(parts: Parts, rollouts: Sequence[Rollout], seconds: float) -> Sample:
    """Rollouts alone, from actor to learner devices; the actors of all devices at the same time."""
    unrolls = [jax.device_put(r.trajectories, d) for r, d in zip(rollouts, parts.actor_devices, strict=True)]
    jax.block_until_ready(unrolls)
    local_learner = parts.topology.local_learner

    def move(actor: int, turns: Iterator[int]) -> int:
        env_steps = 0
        for _ in turns:
            jax.block_until_ready([rollout_to_learner(unroll, local_learner) for unroll in unrolls[actor]])
            env_steps += parts.steps_per_unroll
        return env_steps

    return time_threads(move, parts.layout.num_actors, seconds)


def time_learn(parts: Parts, rollouts: Sequence[Rollout], seconds: float) -> Sample:
    """Learning alone, on the same rollouts again and again, with parameters published after each update.

    As in a run, update k is waited for when update k+1 is in flight.
    """
    learner = parts.programs.learner
    trajectories = join_rollouts(rollouts, parts.topology)
    parameters = ParameterStore(parts.topology.local_actor_devices)
    state = jax.block_until_ready(learner.init(parts.config.seed))

    def learn(_: int, turns: Iterator[int]) -> int:
        nonlocal state
        in_flight = None
        for turn in turns:
            state, metrics = learner.update(state, trajectories)
            parameters.publish(turn, learner.actor_params(state))
            jax.block_until_ready(in_flight)
            in_flight = metrics
        jax.block_until_ready((state, in_flight))
        return turn * parts.config.env_steps_per_update

    return time_threads(learn, 1, seconds)


def open_plain_loop(parts: Parts) -> Callable[[float], Sample] | None:
    """What times the plain loop (see `plain_loop`); None where the run has something that it has not.

    That is another source than Gymnax, a carry in the network, or actions that are not discrete.
    """
    make_plain = getattr(parts.source, "make_plain", None)
    network = make_network(parts.config.network, parts.spec)
    has_carry = bool(jax.tree.leaves(jax.eval_shape(lambda: network.initial_carry(1))))
    if make_plain is None or has_carry or not isinstance(parts.spec.actions, DiscreteActions):
        return None
    return make_plain_loop(parts.config, network, *make_plain(parts.config.env))


def time_end_to_end(parts: Parts, seconds: float) -> Sample:
    """The run loop itself, with the checkpoints that are due, without metrics: steps that the learner consumed, warm-up
    excluded.

    Measured from before one update to before another: at both ends one update is in flight.
    """
    clocks: list[Clocks] = []  # before each update, or each call of several
    updates: list[int] = []
    first = warm_up_updates(parts.config)

    def note(launched: Counters, ended: Counters) -> None:
        clocks.append(Clocks.now())
        updates.append(launched.learner_steps)

    def is_over() -> bool:
        return len(clocks) - 1 > first and clocks[-1].wall_s >= clocks[first].wall_s + seconds

    stop = Stop(code=is_over, now=is_over)
    _run(parts, Hooks(before_update=note), Services(stop=stop))
    return clocks[first].sample((updates[-1] - updates[first]) * parts.config.env_steps_per_update, clocks[-1])


def time_first_update(parts: Parts) -> float:
    """Seconds that a run of a single update takes until its metrics are there: environments open, act, learn."""
    ended_s: list[float] = []
    start_s = time.perf_counter()
    once = dataclasses.replace(parts.config, total_env_steps=parts.config.env_steps_per_update)
    _run(dataclasses.replace(parts, config=once), Hooks(write_row=lambda row: ended_s.append(time.perf_counter())))
    return ended_s[0] - start_s


def _run(parts: Parts, hooks: Hooks, services: Services | None = None) -> None:
    """Runs with the checkpoints that are due in a folder that is gone afterwards."""
    config = parts.config
    with (
        temporary_folder("benchmark") as folder,
        Checkpointer(folder, keep=config.checkpoint.keep, every=config.checkpoint.every_updates) as checkpointer,
    ):

        def save(snapshot: Snapshot) -> None:
            if is_checkpoint_due(config, snapshot.counters):  # Not where the clock ends the run.
                checkpointer.save(snapshot)

        hooks = dataclasses.replace(hooks, save=save)
        run(parts, hooks=hooks, services=services, programs=parts.programs)
