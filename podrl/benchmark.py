"""How fast each part of a run is by itself, how fast all are together, and what that costs in cores and memory.

A stage drives podrl's own parts, laid out as the run would be: its pools, compiled programs, parameter store and run
loop. Repeats are interleaved over the stages (A B C A B C), because machines drift: a ratio of stages is taken inside a
repeat, where both met the same machine. Core-seconds are CPU time of the whole process, all threads; threads that spin
while they wait count as busy.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
import contextlib
import dataclasses
import functools
import importlib.metadata
import os
import resource
import statistics
import sys
import time
from typing import Any

import jax
from jax import numpy as jnp
import numpy as np

from podrl import sebulba
from podrl.agents import load_agent
from podrl.config import Config, check, to_dict
from podrl.envs import Pool, Source, load_source
from podrl.envs.seeds import env_seeds
from podrl.layout import Layout, default_env_threads, make_layout
from podrl.learner import Learner
from podrl.mesh import Topology, make_topology
from podrl.networks import make_network
from podrl.transfer import ParameterStore, rollout_to_learner
from podrl.types import Agent, EnvSpec, LearnerState, Timestep, Trajectory
from podrl.unroll import ActingState
from podrl.workdir import LIBRARIES

END_TO_END = "end_to_end"
WARMUP_UPDATES = 3  # A run's first two rollouts are made with the same parameters, and its first one opens the pools.
_ENDLESS_UPDATES = 1_000_000
_MATMUL_S = 0.5
_MATMUL_SIZES = (2048, 4096)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
    """One repeat of one stage.

    Attributes:
        env_steps: agent decisions that passed through the stage.
        wall_s: seconds it took.
        core_s: CPU seconds of all threads of this process.
    """

    env_steps: int
    wall_s: float
    core_s: float

    @property
    def env_steps_per_second(self) -> float:
        """The stage's rate."""
        return self.env_steps / self.wall_s

    @property
    def core_seconds_per_env_step(self) -> float:
        """What one step costs the host, whoever waits for it."""
        return self.core_s / self.env_steps


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parts:
    """What a run is made of, nothing of it started.

    Attributes:
        config: of the run, made so long that it never ends by itself.
        source: makes environments.
        spec: of one environment.
        agent: the algorithm.
        topology: who acts and who learns.
        layout: how environments are dealt out.
    """

    config: Config
    source: Source
    spec: EnvSpec
    agent: Agent
    topology: Topology
    layout: Layout

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
        """C++ threads of each pool."""
        return self.config.actors.env_threads or default_env_threads(self.layout)


Stage = Callable[[float], Sample]  # (seconds to run for) -> what happened


def make_parts(config: Config) -> Parts:
    """Resolves a config as training does.

    Raises:
        ConfigError: if the parts do not fit together, or the job has several processes.
    """
    config = dataclasses.replace(config, total_env_steps=_ENDLESS_UPDATES * config.env_steps_per_update)
    source = load_source(config.env.source)
    spec = source.make_spec(config.env)
    topology = make_topology(config.topology)
    check(
        topology.num_processes == 1,
        f"Found a job of {topology.num_processes} processes; the benchmark's stages end by the clock, which processes "
        "do not share. Run it in one process.",
    )
    network = make_network(config.network, spec)
    return Parts(
        config=config,
        source=source,
        spec=spec,
        agent=load_agent(config.agent.name).make_agent(config.agent, network, config.num_updates),
        topology=topology,
        layout=make_layout(config, topology),
    )


def measure(
    config: Config, *, repeats: int, seconds: float, show_phase: Callable[[str], None] = lambda text: None
) -> dict[str, Any]:
    """Measures every stage of a run `repeats` times, in turns.

    Args:
        config: of the run.
        repeats: of each stage.
        seconds: that each stage runs for, in each repeat; a stage ends with a whole unroll or update.
        show_phase: told what happens now.

    Returns:
        The report, ready for JSON: `stages` by name with rates (median, min, max over the repeats), `machine` with its
        yardstick, `end_to_end` as fractions of what the stages allow, `compile_s`, `peak_memory_bytes`.

    Raises:
        ConfigError: if the parts of the run do not fit together.
    """
    load_average = os.getloadavg()[0]
    parts = make_parts(config)
    samples: dict[str, list[Sample]] = {}
    gflops: list[float] = []
    with contextlib.ExitStack() as stack:
        for repeat in range(repeats):
            show_phase(f"repeat {repeat + 1} of {repeats}: {END_TO_END}")
            sample, outcome = time_end_to_end(parts, seconds)
            samples.setdefault(END_TO_END, []).append(sample)
            if repeat == 0:
                # Read here, the peaks are those of a run: the other stages hold a second set of everything.
                compile_s, memory = outcome.compile_s, peak_memory_bytes(parts.topology)
                show_phase("opening the other stages")
                stages = open_stages(parts, stack)
                matmul_n, time_matmul = make_matmul()
            del outcome
            for name, time_stage in stages.items():
                show_phase(f"repeat {repeat + 1} of {repeats}: {name}")
                samples.setdefault(name, []).append(time_stage(seconds))
            gflops.append(time_matmul())
    machine = describe_machine(parts.topology) | {
        "load_average": load_average,
        "matmul_n": matmul_n,
        "matmul_gflops": spread(gflops),
    }
    return {
        "config": to_dict(config),
        "topology": parts.topology.describe(),
        "layout": dataclasses.asdict(parts.layout) | {"env_threads": parts.env_threads},
        "frames_per_step": parts.spec.frames_per_step,
        "repeats": repeats,
        "seconds": seconds,
        "machine": machine,
        "compile_s": compile_s,
        "peak_memory_bytes": memory,
        "stages": {name: summarize(samples[name], parts.spec.frames_per_step) for name in [*stages, END_TO_END]},
        "end_to_end": compare(samples, machine["cores"] if machine["platform"] == "cpu" else None),
    }


def open_stages(parts: Parts, stack: contextlib.ExitStack) -> dict[str, Stage]:
    """Makes what the stages before end-to-end need, once for all repeats.

    Args:
        parts: of the run.
        stack: closes the pools.

    Returns:
        The stages by name. `transfer` is there only if rollouts change devices.
    """
    programs = sebulba.compile_programs(parts.config, parts.agent, parts.spec, parts.topology)
    state = programs.learner.init(parts.config.seed)
    parameters = ParameterStore(parts.topology.local_actor_devices)
    parameters.publish(0, programs.learner.actor_params(state))
    rollouts = record_rollouts(parts, programs, parameters)
    pools = open_pools(parts, stack)
    timesteps = [[pool.reset() for pool in turns] for turns in pools]
    stages: dict[str, Stage] = {
        "env": functools.partial(time_env, parts, pools),
        "act": functools.partial(time_act, parts, programs, parameters, timesteps),
        "learn": functools.partial(time_learn, parts, programs.learner, state, rollouts),
    }
    if len({*parts.actor_devices, *parts.topology.local_learner.devices.flat}) > 1:
        stages["transfer"] = functools.partial(time_transfer, parts, programs, timesteps)
    return stages


def open_pools(parts: Parts, stack: contextlib.ExitStack) -> list[list[Pool]]:
    """The pools of every actor thread, as the run would make them."""
    layout, config = parts.layout, parts.config

    def open_pool(actor: int, pool: int) -> Pool:
        indices = [int(env) for env in layout.env_indices(parts.topology.process_index, actor, pool)]
        seeds = env_seeds(config.seed, indices)
        opened = parts.source.make_pool(config.env, seeds=seeds, num_threads=parts.env_threads)
        stack.callback(opened.close)
        return opened

    return [[open_pool(actor, pool) for pool in range(layout.pools_per_actor)] for actor in range(layout.num_actors)]


def record_rollouts(parts: Parts, programs: sebulba.Programs, parameters: ParameterStore) -> list[Trajectory]:
    """The rollouts of one update, made by the run's own actors, on the learner devices."""
    once = dataclasses.replace(parts.config, total_env_steps=1)
    actors = sebulba.make_actors(once, parts.source, parts.topology, programs, parameters)
    try:
        for actor in actors:
            actor.start()
        rollouts = [actor.take() for actor in actors]
    finally:
        for actor in actors:
            actor.stop()
            actor.join(parts.config.actors.timeout_s)
    return sebulba.join_actors(rollouts, parts.topology)


def time_env(parts: Parts, pools: Sequence[Sequence[Pool]], seconds: float) -> Sample:
    """Environments alone: each actor thread takes turns with its pools, as in a run, and sends random actions."""
    num_envs = parts.layout.envs_per_pool
    generator = np.random.default_rng(parts.config.seed)
    actions = generator.integers(parts.spec.num_actions, size=(1000, num_envs), dtype=np.int32)

    def step(actor: int, end_s: float) -> int:
        for pool in pools[actor]:
            pool.send(actions[0])
        rounds = 1
        while time.perf_counter() < end_s:
            for pool in pools[actor]:
                pool.recv()
                pool.send(actions[rounds % len(actions)])
            rounds += 1
        for pool in pools[actor]:
            pool.recv()
        return rounds * len(pools[actor]) * num_envs

    return _time_actors(parts, step, seconds)


def time_act(
    parts: Parts,
    programs: sebulba.Programs,
    parameters: ParameterStore,
    timesteps: Sequence[Sequence[Timestep]],
    seconds: float,
) -> Sample:
    """Acting alone: whole unrolls with one fixed timestep per pool; sends it to the device and fetches the actions."""
    states = _acting_states(parts, programs)
    devices = parts.actor_devices

    def act(actor: int, end_s: float) -> int:
        device, acting = devices[actor], programs.acting[devices[actor]]
        params = parameters.fetch(device, 0, timeout_s=parts.config.actors.timeout_s, who="The benchmark")
        env_steps = 0
        while not env_steps or time.perf_counter() < end_s:
            for _ in range(parts.config.actors.unroll_length):
                for pool, timestep in enumerate(timesteps[actor]):
                    version, on_device = jax.device_put((np.int32(0), timestep), device)
                    action, states[actor][pool] = acting.act(params, version, states[actor][pool], on_device)
                    np.asarray(action)
            jax.block_until_ready(_finish(acting, states[actor], jax.device_put(timesteps[actor], device)))
            env_steps += parts.steps_per_unroll
        return env_steps

    return _time_actors(parts, act, seconds)


def time_transfer(
    parts: Parts, programs: sebulba.Programs, timesteps: Sequence[Sequence[Timestep]], seconds: float
) -> Sample:
    """Rollouts alone, from actor to learner devices; the actors of all devices at the same time."""
    states = _acting_states(parts, programs)
    devices = parts.actor_devices
    rollouts = [
        _finish(programs.acting[device], states[actor], jax.device_put(timesteps[actor], device))
        for actor, device in enumerate(devices)
    ]
    jax.block_until_ready(rollouts)

    def move(actor: int, end_s: float) -> int:
        env_steps = 0
        while not env_steps or time.perf_counter() < end_s:
            local_learner = parts.topology.local_learner
            jax.block_until_ready([rollout_to_learner(rollout, local_learner) for rollout in rollouts[actor]])
            env_steps += parts.steps_per_unroll
        return env_steps

    return _time_actors(parts, move, seconds)


def time_learn(
    parts: Parts, learner: Learner, state: LearnerState, rollouts: Sequence[Trajectory], seconds: float
) -> Sample:
    """Learning alone, on the same rollouts again and again, with parameters published after each update.

    As in a run, update k is waited for when update k+1 is in flight.

    Args:
        parts: of the run.
        learner: compiled.
        state: to start from; not consumed.
        rollouts: of one update, on the learner devices.
        seconds: to run for; at least two updates.
    """
    parameters = ParameterStore(parts.topology.local_actor_devices)
    state = jax.block_until_ready(jax.device_put(state, learner.state_sharding, may_alias=False))
    updates, in_flight = 0, None
    start = _Moment.now()
    while updates < 2 or time.perf_counter() < start.wall_s + seconds:
        state, metrics = learner.update(state, rollouts)
        updates += 1
        parameters.publish(updates, learner.actor_params(state))
        jax.block_until_ready(in_flight)
        in_flight = metrics
    jax.block_until_ready((state, in_flight))
    return start.sample(updates * parts.config.env_steps_per_update)


def time_end_to_end(parts: Parts, seconds: float) -> tuple[Sample, sebulba.Outcome]:
    """The run loop itself, without files and checkpoints: steps that the learner consumed, warm-up excluded."""
    window = _Window(seconds)
    outcome = sebulba.run(
        parts.config,
        agent=parts.agent,
        spec=parts.spec,
        source=parts.source,
        topology=parts.topology,
        should_stop=window.is_over,
    )
    return window.sample(parts.config.env_steps_per_update), outcome


def make_matmul() -> tuple[int, Callable[[], float]]:
    """The machine's yardstick: float32 matrix products on the default device, at JAX's default precision.

    Returns:
        The size n of the [n, n] matrices, and a function that multiplies them for about half a second and returns the
        rate in GFLOP/s.
    """

    def seconds(n: int, count: int) -> float:
        matrix = jnp.full((n, n), 0.5, jnp.float32)
        jax.block_until_ready(multiply(matrix, matrix))
        start_s = time.perf_counter()
        for _ in range(count):
            product = multiply(matrix, matrix)
        jax.block_until_ready(product)
        return time.perf_counter() - start_s

    multiply = jax.jit(jnp.matmul)
    smallest, largest = _MATMUL_SIZES
    fitting = smallest * (_MATMUL_S / seconds(smallest, 1)) ** (1 / 3)
    n = int(np.clip(fitting, smallest, largest)) // 256 * 256
    count = max(1, round(_MATMUL_S / seconds(n, 1)))
    return n, lambda: 2 * n**3 * count / seconds(n, count) / 1e9


def describe_machine(topology: Topology) -> dict[str, Any]:
    """What the numbers were measured on, and with."""
    device = topology.mesh.devices.flat[0]
    return {
        "platform": device.platform,
        "device_kind": device.device_kind,
        "devices": topology.mesh.size,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "versions": {name: importlib.metadata.version(name) for name in LIBRARIES},
    }


def peak_memory_bytes(topology: Topology) -> dict[str, int | None]:
    """Peaks so far: `process` is host memory, `device` the fullest device's; None where the backend does not count."""
    unit = 1 if sys.platform == "darwin" else 1024
    accounts = [device.memory_stats() or {} for device in topology.mesh.devices.flat]
    peaks = [account["peak_bytes_in_use"] for account in accounts if "peak_bytes_in_use" in account]
    return {
        "process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
        "device": max(peaks, default=None),
    }


def summarize(samples: Sequence[Sample], frames_per_step: int) -> dict[str, Any]:
    """A stage's rates and costs over its repeats."""
    rates = [sample.env_steps_per_second for sample in samples]
    return {
        "env_steps_per_second": spread(rates),
        "frames_per_second": spread([rate * frames_per_step for rate in rates]),
        "core_seconds_per_env_step": spread([sample.core_seconds_per_env_step for sample in samples]),
        "samples": [dataclasses.asdict(sample) for sample in samples],
    }


def compare(samples: Mapping[str, Sequence[Sample]], cores: int | None) -> dict[str, Any]:
    """What end-to-end is relative to what the other stages allow.

    Args:
        samples: of every stage, in the order of repeats.
        cores: that all stages share; None if some run on accelerators.

    Returns:
        The slowest stage (by median), and `of_slowest_stage` and `of_core_bound`: fractions, taken in each repeat. The
        core bound is the rate at which the stages' core-seconds fill all cores; None without shared cores.
    """
    single = {name: repeats for name, repeats in samples.items() if name != END_TO_END}
    slowest = min(single, key=lambda name: statistics.median(s.env_steps_per_second for s in single[name]))
    rates = [sample.env_steps_per_second for sample in samples[END_TO_END]]
    result: dict[str, Any] = {
        "slowest_stage": slowest,
        "of_slowest_stage": spread(
            [rate / sample.env_steps_per_second for rate, sample in zip(rates, single[slowest], strict=True)]
        ),
        "core_bound_env_steps_per_second": None,
        "of_core_bound": None,
    }
    if cores is not None:
        costs = [sum(s.core_seconds_per_env_step for s in repeat) for repeat in zip(*single.values(), strict=True)]
        result["core_bound_env_steps_per_second"] = spread([cores / cost for cost in costs])
        result["of_core_bound"] = spread([rate * cost / cores for rate, cost in zip(rates, costs, strict=True)])
    return result


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, min and max."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Moment:
    """Both clocks, read at the same time."""

    wall_s: float
    core_s: float

    @classmethod
    def now(cls) -> "_Moment":
        return cls(wall_s=time.perf_counter(), core_s=time.process_time())

    def sample(self, env_steps: int, end: "_Moment | None" = None) -> Sample:
        """What happened from this moment to `end` (or now)."""
        end = end or _Moment.now()
        return Sample(env_steps=env_steps, wall_s=end.wall_s - self.wall_s, core_s=end.core_s - self.core_s)


class _Window:
    """The measured part of a run, from one update's launch to another's: at both ends one update is in flight."""

    def __init__(self, seconds: float):
        """Opens after the warm-up, for `seconds`."""
        self._seconds = seconds
        self._updates = -1
        self._start: _Moment | None = None
        self._end: _Moment | None = None

    def is_over(self) -> bool:
        """Asked once before each update."""
        self._updates += 1
        now = _Moment.now()
        if self._updates == WARMUP_UPDATES:
            self._start = now
        elif self._start is not None and now.wall_s >= self._start.wall_s + self._seconds:
            self._end = now
        return self._end is not None

    def sample(self, env_steps_per_update: int) -> Sample:
        """What happened in the window, which must be over."""
        if self._start is None or self._end is None:
            raise RuntimeError("The run ended before its measured part did.")
        return self._start.sample((self._updates - WARMUP_UPDATES) * env_steps_per_update, self._end)


def _time_actors(parts: Parts, work: Callable[[int, float], int], seconds: float) -> Sample:
    """Runs `work(actor, end_s) -> env_steps` in one thread per actor, as a run would."""
    num_actors = parts.layout.num_actors
    with ThreadPoolExecutor(num_actors, thread_name_prefix="benchmark") as executor:
        start = _Moment.now()
        ends_s = [start.wall_s + seconds] * num_actors
        env_steps = sum(executor.map(work, range(num_actors), ends_s))
        return start.sample(env_steps)


def _acting_states(parts: Parts, programs: sebulba.Programs) -> list[list[ActingState]]:
    """Fresh acting states of every actor's pools."""
    indices = functools.partial(parts.layout.env_indices, parts.topology.process_index)
    states = [
        [programs.acting[device].init(indices(actor, pool)) for pool in range(parts.layout.pools_per_actor)]
        for actor, device in enumerate(parts.actor_devices)
    ]
    return jax.block_until_ready(states)


def _finish(
    acting: sebulba.ActingPrograms, states: list[ActingState], timesteps: Sequence[Timestep]
) -> list[Trajectory]:
    """Closes the unrolls of one actor's pools; replaces `states` by the next ones."""
    finished = [acting.finish(state, timestep) for state, timestep in zip(states, timesteps, strict=True)]
    states[:] = [state for _, state in finished]
    return [trajectory for trajectory, _ in finished]
