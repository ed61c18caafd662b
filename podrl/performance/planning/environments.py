"""How fast this machine steps a config's environments."""

from collections.abc import Callable
import contextlib
import itertools
import statistics
import time

import jax
import numpy as np

from podrl.assembly import load_environment
from podrl.config.config import Config
from podrl.envs.seeds import env_seeds
from podrl.envs.source import JaxEnvironment, make_environment
from podrl.performance.benchmark.instruments import time_calls
from podrl.runtime.machine import available_cores

# A hardware thread of a cloud's host against one here. EnvPool's own table has 936 to 1,045 Atari steps/s on each
# logical core of servers; podrl measured 1,700 on each where this figure was made.
VCPU_SHARE = 0.6

_WINDOW_S = 0.25  # The median of several counts.
_MAX_ENVS = 64


def env_steps_per_core(config: Config, *, seconds: float = 3.0) -> float:
    """Steps per second and core of the config's environments alone, with random actions, on all cores at once.

    Args:
        config: of the run.
        seconds: to step for.

    Raises:
        ConfigError: if the environments cannot be opened here.
    """
    config, source, spec = load_environment(config)
    num_envs = min(config.actors.num_envs, _MAX_ENVS)
    seeds = env_seeds(config.seed, list(range(num_envs)))
    actions = spec.actions.sample(np.random.default_rng(config.seed), (1000, num_envs))
    pool = source.make_pool(config.env, seeds=seeds, num_threads=min(available_cores(), num_envs))
    turns = itertools.count()
    with contextlib.closing(pool):
        pool.reset()

        def step() -> None:
            pool.send(actions[next(turns) % len(actions)])
            pool.recv()

        return _typical_rate(step, num_envs, seconds) / available_cores()


def graph_env_steps_per_s(config: Config, *, seconds: float = 2.0) -> float:
    """Steps per second of environments that are JAX programs, in a compiled loop, without a policy.

    All that a run keeps of a step is kept. However many cores there are, such a loop keeps little more than one busy.

    Args:
        config: of the run.
        seconds: to step for.

    Raises:
        ConfigError: if the environments are not JAX programs.
    """
    config, source, spec = load_environment(config)
    environment: JaxEnvironment = make_environment(source, config.env)
    num_envs, length = config.actors.num_envs, 64
    keys = jax.random.split(jax.random.key(config.seed), num_envs)
    actions = spec.actions.sample(np.random.default_rng(config.seed), (length, num_envs))

    @jax.jit
    def run(state: object) -> object:
        def step(state: object, action: jax.Array) -> tuple[object, object]:
            return environment.step(keys, state, action)

        return jax.lax.scan(step, state, jax.numpy.asarray(actions))

    state = jax.jit(environment.init)(keys)[0]
    return num_envs * length / time_calls(lambda: jax.block_until_ready(run(state)), seconds).wall_s


def _typical_rate(step: Callable[[], object], steps: int, seconds: float) -> float:
    """Env steps per second in the median window."""
    rates = []
    end_s = time.perf_counter() + seconds
    while time.perf_counter() < end_s:
        start_s, count = time.perf_counter(), 0
        while time.perf_counter() - start_s < _WINDOW_S:
            step()
            count += 1
        rates.append(count * steps / (time.perf_counter() - start_s))
    return statistics.median(rates)
