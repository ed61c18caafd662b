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

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import inspect
import json
from typing import Any, cast

import jax
from jax import numpy as jnp

from podrl.actions import ActionSpace, ContinuousActions, DiscreteActions
from podrl.config.config import ConfigError, EnvConfig, check, check_not_a_setting, did_you_mean
from podrl.config.extras import install_command
from podrl.envs.options import checked_option
from podrl.envs.pools.gymnax_own import find_own, make_own_env
from podrl.envs.pools.in_graph import DevicePool, Transition, make_many
from podrl.envs.source import EvaluationProtocol, JaxEnvironment, Source, option_facts
from podrl.types import EnvSpec, PyTree

try:
    import gymnax
    from gymnax.environments import spaces
except ModuleNotFoundError as missing:  # A missing dependency of Gymnax keeps its own error.
    if missing.name != "gymnax":
        raise
    raise ConfigError(f"env.source='gymnax' needs Gymnax: {install_command('gymnax')}.") from None

_TIME_LIMIT = "max_steps_in_episode"
_STEPS_PER_SECOND = 15.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Task:
    """A config after all checks.

    Attributes:
        env: Gymnax's environment.
        params: Gymnax's parameters of the environment.
        encode: (Gymnax's observation) -> the network's: an image [H, W, C] or a vector [D], of float32.
        actions: podrl's actions.
        decode: (podrl's action) -> Gymnax's.
    """

    env: Any
    params: Any
    encode: Callable[[PyTree], jax.Array]
    actions: ActionSpace
    decode: Callable[[jax.Array], jax.Array]


def make_spec(config: EnvConfig) -> EnvSpec:
    """Describes one environment.

    Args:
        config: config whose `options` are the environment's parameters, such as `memory_length`, and the arguments of
            its constructor, such as `use_minimal_action_set`, by Gymnax's names. Its time limit,
            `max_steps_in_episode`, is `max_episode_steps`, as for every source.

    Raises:
        ConfigError: on an unknown environment or option, or one that podrl cannot train on.
    """
    task = _resolve(config)
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
    return DevicePool(make_environment(config), _resolve(config).actions.struct, seeds)


def option_hints(config: EnvConfig) -> dict[str, Any]:
    """Returns a type hint for each option of the environment. Raises as `make_spec` does."""
    _check_known(config)
    params, arguments = _defaults(config)
    return {name: type(default) for name, default in (params | arguments).items() if name != _TIME_LIMIT}


def make_plain(config: EnvConfig) -> tuple[Any, Any, Callable[[PyTree], jax.Array]]:
    """Returns Gymnax's own environment, which resets itself, its parameters, and the encoding of its observations.

    It serves to measure what podrl's own stepping costs. Raises as `make_spec` does.
    """
    task = _resolve(config)
    return task.env, task.params, task.encode


def evaluation_protocol(config: EnvConfig) -> EvaluationProtocol:
    """Returns the protocol: whole episodes up to the environment's own time limit; the rest as in `config`.

    Raises as `make_spec` does.
    """
    env = dataclasses.replace(config, max_episode_steps=0)
    limit = int(getattr(_resolve(env).params, _TIME_LIMIT))
    facts = {"max_episode_steps": limit} | option_facts(config)
    return EvaluationProtocol(env=env, facts=facts, max_episode_steps=limit, steps_per_second=_STEPS_PER_SECOND)


@functools.cache
def _make_environment(values: str) -> JaxEnvironment:
    """Makes the environment; its config is passed as JSON, so that the cache can compare it."""
    config = EnvConfig(**json.loads(values))
    task = _resolve(config)
    env, params = task.env, task.params

    def reset(key: jax.Array) -> tuple[PyTree, jax.Array]:
        observation, state = env.reset_env(key, params)
        return state, task.encode(observation)

    def step(key: jax.Array, state: PyTree, action: jax.Array) -> Transition:
        observation, state, reward, terminated, info = env.step_env(key, state, task.decode(action), params)
        truncated = env.is_truncated(state, params)
        return Transition(state, task.encode(observation), reward, terminated, truncated, info)

    return make_many(reset, step)


def _resolve(config: EnvConfig) -> _Task:
    """Checks what `config` asks for against what Gymnax has."""
    check(not config.observation_keys, "env.observation_keys must be empty: Gymnax's observations are no dictionaries.")
    check(config.channels != "first", "env.channels='first' cannot be: Gymnax's images have their channels last.")
    _check_known(config)
    env, params = _make(config)
    actions, decode = _make_actions(env.action_space(params), config)
    encode = _make_encoding(env.observation_space(params))
    return _Task(env=env, params=params, encode=encode, actions=actions, decode=decode)


def _check_known(config: EnvConfig) -> None:
    """Raises `ConfigError` if Gymnax has no such environment."""
    known = list(gymnax.registered_envs)
    check(
        find_own(config.id) is not None or config.id in known,
        f"env.id={config.id!r} is not a Gymnax environment{did_you_mean(config.id, known)} "
        f"Available: {', '.join(sorted(known))}; one of your own is my_module:MyEnv.",
    )


def _defaults(config: EnvConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the environment's parameters, and the arguments of its constructor, with Gymnax's values."""
    env, params = _make_of_gymnax(config, {})
    return (
        {field.name: getattr(params, field.name) for field in dataclasses.fields(params)},
        _constructor_defaults(find_own(config.id) or type(env)),
    )


def _make(config: EnvConfig) -> tuple[Any, Any]:
    """Makes Gymnax's environment and its parameters, with the config's options in their types."""
    params, arguments = _defaults(config)
    settings: dict[str, Any] = {}
    known = {name: value for name, value in (params | arguments).items() if name != _TIME_LIMIT}
    for name, value in config.options.items():
        check(name != _TIME_LIMIT, f"env.options.{name} is not yours to set: set env.max_episode_steps.")
        check_not_a_setting(name, config.id)
        check(
            name in known,
            f"env.options.{name} is not an option of {config.id}{did_you_mean(name, known)} "
            f"Available: {', '.join(sorted(known)) or 'none'}.",
        )
        settings[name] = checked_option(name, value, known[name])
    env, found = _make_of_gymnax(config, {name: settings[name] for name in settings if name in arguments})
    if config.max_episode_steps:
        settings[_TIME_LIMIT] = config.max_episode_steps
    return env, found.replace(**{name: settings[name] for name in settings if name in params})


def _make_of_gymnax(config: EnvConfig, arguments: Mapping[str, Any]) -> tuple[Any, Any]:
    """Makes Gymnax's environment and its parameters, which may download data; or the user's own."""
    creator = find_own(config.id)
    try:
        made = make_own_env(config.id, creator, arguments) if creator else gymnax.make(config.id, **arguments)
        return cast(tuple[Any, Any], made)
    except OSError as error:
        raise ConfigError(f"env.id={config.id!r} cannot be made: Gymnax could not fetch its data ({error}).") from None


def _constructor_defaults(env_type: Callable[..., Any]) -> dict[str, Any]:
    """Returns the arguments of a constructor that have a plain default."""
    parameters = inspect.signature(env_type).parameters.values()
    return {p.name: p.default for p in parameters if isinstance(p.default, bool | int | float | str)}


def _make_encoding(space: Any) -> Callable[[PyTree], jax.Array]:
    """Makes discrete values one-hot vectors, keeps arrays of rank 3 as images and flattens others; all float32."""
    if isinstance(space, spaces.Discrete):
        return lambda value: jax.nn.one_hot(value, space.n, dtype=jnp.float32)

    def encode(array: jax.Array) -> jax.Array:
        return array.astype(jnp.float32).reshape(array.shape if array.ndim == 3 else (-1,))

    return encode


def _make_actions(space: Any, config: EnvConfig) -> tuple[ActionSpace, Callable[[jax.Array], jax.Array]]:
    """Returns podrl's actions for a space, and the function that turns them into the environment's."""
    if isinstance(space, spaces.Discrete):
        return DiscreteActions(space.n), lambda action: action
    if isinstance(space, spaces.Box) and len(space.shape) == 1:
        low, high = jnp.asarray(space.low), jnp.asarray(space.high)
        return ContinuousActions(space.shape[0]), lambda action: low + (jnp.clip(action, -1, 1) + 1) / 2 * (high - low)
    raise ConfigError(f"env.id={config.id!r} has actions {space}; podrl takes discrete ones and vectors.")


SOURCE = Source(
    make_spec=make_spec,
    make_pool=make_pool,
    gives_info=True,
    settings=("max_episode_steps",),
    option_hints=option_hints,
    evaluation_protocol=evaluation_protocol,
    make_environment=make_environment,
    make_plain=make_plain,
)
