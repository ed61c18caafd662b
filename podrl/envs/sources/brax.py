"""Brax's locomotion as JAX programs: `pip install -e '.[brax]'`.

They step inside the compiled program (`topology.placement='anakin'`), and on the host's CPU like any other source.

Facts about Brax, checked on 0.14.2: an environment by itself neither resets nor has a time limit (its wrappers do, and
podrl uses none of them); `done` is the environment's own end; actions are in [-1, 1] already and not clipped. Its
environments are no longer developed, and it needs MuJoCo below 4.

Source: Freeman et al. 2021, arXiv:2106.13281.
"""

from collections.abc import Sequence
import contextlib
import dataclasses
import functools
import io
import json
from typing import Any
import warnings

import jax
from jax import numpy as jnp

from podrl.actions import ContinuousActions
from podrl.config.config import ConfigError, EnvConfig, check, check_not_a_setting, check_one_of, did_you_mean
from podrl.config.extras import install_command
from podrl.envs.pools.in_graph import DevicePool, Transition, make_many
from podrl.envs.source import EvaluationProtocol, JaxEnvironment, Source
from podrl.types import EnvSpec, PyTree

try:
    with contextlib.redirect_stdout(io.StringIO()):  # MuJoCo prints that there is no Warp, which nothing here needs.
        from brax import envs
except ModuleNotFoundError as missing:  # A missing dependency of Brax keeps its own error.
    if missing.name != "brax":
        raise
    raise ConfigError(f"env.source='brax' needs Brax: {install_command('brax')}.") from None

_BACKENDS = ("generalized", "mjx", "positional", "spring")
_STEPS_PER_SECOND = 20.0
_MAX_EPISODE_STEPS = 1000


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Options:
    """The options of a Brax environment, `config.env.options`.

    Attributes:
        backend: physics backend: `spring` is the fastest, `mjx` is MuJoCo's own.
    """

    backend: str = "spring"


def make_spec(config: EnvConfig) -> EnvSpec:
    """Describes one environment.

    Args:
        config: config whose only option is `backend`.

    Raises:
        ConfigError: on an unknown environment or option.
    """
    env, _ = _resolve(config)
    observation = jax.eval_shape(env.reset, jax.random.key(0)).obs
    observation = jax.ShapeDtypeStruct(observation.shape, jnp.float32)
    return EnvSpec(id=config.id, observation=observation, actions=ContinuousActions(env.action_size))


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
    return DevicePool(make_environment(config), make_spec(config).actions.struct, seeds)


def option_hints(config: EnvConfig) -> dict[str, Any]:
    """Returns a type hint for each option of Brax."""
    del config
    return {field.name: type(field.default) for field in dataclasses.fields(_Options)}


def evaluation_protocol(config: EnvConfig) -> EvaluationProtocol:
    """Returns the protocol: episodes of up to 1,000 steps; the rest as in `config`. Raises as `make_spec` does."""
    env = dataclasses.replace(config, max_episode_steps=0)
    facts = {"max_episode_steps": _MAX_EPISODE_STEPS} | dataclasses.asdict(_resolve(env)[1])
    return EvaluationProtocol(
        env=env, facts=facts, max_episode_steps=_MAX_EPISODE_STEPS, steps_per_second=_STEPS_PER_SECOND
    )


@functools.cache
def _make_environment(values: str) -> JaxEnvironment:
    """Makes the environment; its config is passed as JSON, so that the cache can compare it."""
    config = EnvConfig(**json.loads(values))
    env, _ = _resolve(config)
    limit = config.max_episode_steps or _MAX_EPISODE_STEPS

    def reset(key: jax.Array) -> tuple[PyTree, jax.Array]:
        state = env.reset(key)
        return (state, jnp.zeros((), jnp.int32)), state.obs.astype(jnp.float32)

    def step(key: jax.Array, state: PyTree, action: jax.Array) -> Transition:
        del key  # Brax's physics has no noise.
        inner, steps = env.step(state[0], jnp.clip(action, -1, 1)), state[1] + 1
        observation = inner.obs.astype(jnp.float32)
        return Transition((inner, steps), observation, inner.reward, inner.done > 0, steps >= limit, inner.metrics)

    return make_many(reset, step)


def _resolve(config: EnvConfig) -> tuple[Any, _Options]:
    """Checks what `config` asks for against what Brax has."""
    check(not config.observation_keys, "env.observation_keys must be empty: Brax's observations are no dictionaries.")
    known = sorted(envs._envs)
    check(
        config.id in known,
        f"env.id={config.id!r} is not a Brax environment{did_you_mean(config.id, known)} "
        f"Available: {', '.join(known)}.",
    )
    defaults = dataclasses.asdict(_Options())
    for name, value in config.options.items():
        check_not_a_setting(name, config.id)
        check(
            name in defaults,
            f"env.options.{name} is not an option of Brax{did_you_mean(name, defaults)} "
            f"Available: {', '.join(sorted(defaults))}.",
        )
        expected = type(defaults[name])
        check(
            type(value) is expected,
            f"env.options.{name}={value!r} has type {type(value).__name__}; expected {expected.__name__}.",
        )
    options = _Options(**config.options)
    check_one_of("env.options.backend", options.backend, _BACKENDS)
    return _load(config.id, options.backend), options


@functools.cache
def _load(env_id: str, backend: str) -> Any:
    """Makes Brax's own environment, a record of pure functions; that takes a second."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # They warn that the environments are no longer developed.
        return envs.get_environment(env_id, backend=backend)


SOURCE = Source(
    make_spec=make_spec,
    make_pool=make_pool,
    gives_info=True,
    settings=("max_episode_steps",),
    option_hints=option_hints,
    evaluation_protocol=evaluation_protocol,
    make_environment=make_environment,
)
