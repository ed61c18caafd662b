"""Gymnax: MinAtar, bsuite and classic control as JAX programs: `pip install -e '.[gymnax]'`.

They step inside the compiled program (`topology.placement='anakin'`), and on the host's CPU like any other source.

Facts about Gymnax, checked on 1.0.1:

- `step_env` neither resets nor checks the time limit: its end is `is_terminated`, the environment's own, and
  `is_truncated`, of the state after the step, is the limit `max_steps_in_episode`. So the two are told apart for every
  environment alike, and an episode that ends by itself on its last step is terminated.
- `step`, which podrl does not call, resets in the same step: it returns the first observation of the next episode.
- An observation may have another dtype than its space says (Catch, DeepSea), so dtypes are taken from `reset_env`.
- MNISTBandit downloads its images when it is made.
- MemoryChain's observations are of the state before the step: its first two rows show the context.

Source: Lange 2022, https://github.com/RobertTLange/gymnax; Young & Tian 2019 (MinAtar), arXiv:1903.03176; Osband et
al. 2020 (bsuite), arXiv:1908.03568.
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
import json
from typing import Any

import jax

from podrl.config.config import EnvConfig
from podrl.envs.pools.gymnax_task import TIME_LIMIT, gymnax_defaults, resolve_gymnax
from podrl.envs.pools.in_graph import DevicePool, Transition, make_many
from podrl.envs.source import EvaluationProtocol, JaxEnvironment, Source, option_facts
from podrl.types import EnvSpec, PyTree

_STEPS_PER_SECOND = 15.0


def make_spec(config: EnvConfig) -> EnvSpec:
    """Describes one environment.

    Args:
        config: config whose `options` are the environment's parameters, such as `memory_length`, and the arguments of
            its constructor, such as `use_minimal_action_set`, by Gymnax's names. Its time limit,
            `max_steps_in_episode`, is `max_episode_steps`, as for every source.

    Raises:
        ConfigError: on an unknown environment or option, or one that podrl cannot train on.
    """
    task = resolve_gymnax(config)
    observation, _ = jax.eval_shape(task.env.reset_env, jax.random.key(0), task.params)
    encoded = jax.eval_shape(task.encode, observation)
    image = f"image {'x'.join(map(str, encoded.shape))}, channels last, numbers as they are"
    return EnvSpec(id=config.id, observation=encoded, actions=task.actions, observed=image if encoded.ndim == 3 else "")


def make_environment(config: EnvConfig) -> JaxEnvironment:
    """Returns the environment as pure functions; the same object for equal configs. Raises as `make_spec` does."""
    return _make_environment(json.dumps(dataclasses.asdict(config), sort_keys=True))


def make_pool(config: EnvConfig, *, seeds: Sequence[int], num_threads: int) -> DevicePool:
    """Makes one environment per seed, on the host's CPU.

    Args:
        config: config as for `make_spec`.
        seeds: [B] in [0, 2**31), one per environment.
        num_threads: not used; XLA's threads serve the whole process.

    Raises:
        ConfigError: as in `make_spec`.
        ValueError: if there are no seeds.
    """
    del num_threads
    return DevicePool(make_environment(config), resolve_gymnax(config).actions.struct, seeds)


def option_hints(config: EnvConfig) -> dict[str, Any]:
    """Returns a type hint for each option of the environment. Raises as `make_spec` does."""
    params, arguments = gymnax_defaults(config)
    return {name: type(default) for name, default in (params | arguments).items() if name != TIME_LIMIT}


def make_plain(config: EnvConfig) -> tuple[Any, Any, Callable[[PyTree], jax.Array]]:
    """Returns Gymnax's own environment, which resets itself, its parameters, and the encoding of its observations.

    It serves to measure what podrl's own stepping costs. Raises as `make_spec` does.
    """
    task = resolve_gymnax(config)
    return task.env, task.params, task.encode


def evaluation_protocol(config: EnvConfig) -> EvaluationProtocol:
    """Returns the protocol: whole episodes up to the environment's own time limit; the rest as in `config`.

    Raises as `make_spec` does.
    """
    env = dataclasses.replace(config, max_episode_steps=0)
    limit = int(getattr(resolve_gymnax(env).params, TIME_LIMIT))
    facts = {"max_episode_steps": limit} | option_facts(config)
    return EvaluationProtocol(env=env, facts=facts, max_episode_steps=limit, steps_per_second=_STEPS_PER_SECOND)


@functools.cache
def _make_environment(values: str) -> JaxEnvironment:
    """Makes the environment; its config is passed as JSON, so that the cache can compare it."""
    config = EnvConfig(**json.loads(values))
    task = resolve_gymnax(config)
    env, params = task.env, task.params

    def reset(key: jax.Array) -> tuple[PyTree, jax.Array]:
        observation, state = env.reset_env(key, params)
        return state, task.encode(observation)

    def step(key: jax.Array, state: PyTree, action: jax.Array) -> Transition:
        observation, state, reward, terminated, _ = env.step_env(key, state, task.decode(action), params)
        return Transition(state, task.encode(observation), reward, terminated, env.is_truncated(state, params))

    return make_many(reset, step)


SOURCE = Source(
    make_spec=make_spec,
    make_pool=make_pool,
    settings=("max_episode_steps",),
    option_hints=option_hints,
    evaluation_protocol=evaluation_protocol,
    make_environment=make_environment,
    make_plain=make_plain,
)
