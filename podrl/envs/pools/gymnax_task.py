"""What a config asks of Gymnax: an environment with its options, and how podrl sees its observations and actions."""

from collections.abc import Callable, Mapping
import dataclasses
import inspect
from typing import Any, cast

import jax
from jax import numpy as jnp

from podrl.config.config import ConfigError, EnvConfig, check, check_not_a_setting, did_you_mean
from podrl.types import ActionSpace, ContinuousActions, DiscreteActions, PyTree

try:
    import gymnax
    from gymnax.environments import spaces
except ModuleNotFoundError as missing:  # A missing dependency of Gymnax keeps its own error.
    if missing.name != "gymnax":
        raise
    raise ConfigError("env.source='gymnax' needs Gymnax: pip install -e '.[gymnax]'.") from None

TIME_LIMIT = "max_steps_in_episode"


@dataclasses.dataclass(frozen=True, kw_only=True)
class GymnaxTask:
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


def resolve_gymnax(config: EnvConfig) -> GymnaxTask:
    """Returns what `config` asks for, checked against what Gymnax has.

    Raises:
        ConfigError: on an unknown environment or option, or one that podrl cannot train on.
    """
    check(not config.observation_keys, "env.observation_keys must be empty: Gymnax's observations are no dictionaries.")
    check(config.channels != "first", "env.channels='first' cannot be: Gymnax's images have their channels last.")
    env, params = _make(config)
    actions, decode = _make_actions(env.action_space(params), config)
    return GymnaxTask(
        env=env, params=params, encode=_make_encoding(env.observation_space(params)), actions=actions, decode=decode
    )


def gymnax_defaults(config: EnvConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the environment's parameters, and the arguments of its constructor, with Gymnax's values.

    Raises:
        ConfigError: if Gymnax has no such environment.
    """
    _check_known(config)
    env, params = _make_of_gymnax(config, {})
    return (
        {field.name: getattr(params, field.name) for field in dataclasses.fields(params)},
        _constructor_defaults(type(env)),
    )


def _check_known(config: EnvConfig) -> None:
    """Raises `ConfigError` if Gymnax has no such environment."""
    known = list(gymnax.registered_envs)
    check(
        config.id in known,
        f"env.id={config.id!r} is not a Gymnax environment{did_you_mean(config.id, known)} "
        f"Available: {', '.join(sorted(known))}.",
    )


def _make(config: EnvConfig) -> tuple[Any, Any]:
    """Makes Gymnax's environment and its parameters, with the config's options in their types."""
    params, arguments = gymnax_defaults(config)
    settings: dict[str, Any] = {}
    known = {name: value for name, value in (params | arguments).items() if name != TIME_LIMIT}
    for name, value in config.options.items():
        check(name != TIME_LIMIT, f"env.options.{name} is not yours to set: set env.max_episode_steps.")
        check_not_a_setting(name, config.id)
        check(
            name in known,
            f"env.options.{name} is not an option of {config.id}{did_you_mean(name, known)} "
            f"Available: {', '.join(sorted(known)) or 'none'}.",
        )
        settings[name] = _checked_option(name, value, known[name])
    env, found = _make_of_gymnax(config, {name: settings[name] for name in settings if name in arguments})
    if config.max_episode_steps:
        settings[TIME_LIMIT] = config.max_episode_steps
    return env, found.replace(**{name: settings[name] for name in settings if name in params})


def _make_of_gymnax(config: EnvConfig, arguments: Mapping[str, Any]) -> tuple[Any, Any]:
    """Makes Gymnax's environment and its parameters, which may download data."""
    try:
        return cast(tuple[Any, Any], gymnax.make(config.id, **arguments))
    except OSError as error:
        raise ConfigError(f"env.id={config.id!r} cannot be made: Gymnax could not fetch its data ({error}).") from None


def _constructor_defaults(env_type: type) -> dict[str, Any]:
    """Returns the arguments of a constructor that have a plain default."""
    parameters = inspect.signature(env_type).parameters.values()
    return {p.name: p.default for p in parameters if isinstance(p.default, bool | int | float | str)}


def _checked_option(name: str, value: Any, default: Any) -> Any:
    """Returns `value` in the type of its default; integers may stand for floats."""
    expected = type(default)
    if expected is float and type(value) is int:
        value = float(value)
    check(
        type(value) is expected and expected in (bool, int, float, str),
        f"env.options.{name}={value!r} has type {type(value).__name__}; expected {expected.__name__}.",
    )
    return value


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
