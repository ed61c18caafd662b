"""Gymnasium: any environment registered with it, or a `gymnasium.Env` of the user's own.

`env.id` is an id that Gymnasium knows (`CartPole-v1`), one that it knows once a module is imported
(`ale_py:ALE/Pong-v5`), or `my_package.my_env:MyEnv`, a class or a function that returns an environment, from Python's
path or the working folder. `env.options` are arguments of its constructor, and nothing else.

Source: Towers et al. 2024, arXiv:2407.17032; https://gymnasium.farama.org.
"""

from collections.abc import Sequence
import dataclasses
from typing import Any

import gymnasium

from podrl.config.config import ENV_SETTINGS, EnvConfig, check
from podrl.config.env_numbers import numbered_keys, with_number
from podrl.envs.pools.gymnasium_pool import GymnasiumPool, make_batch, try_out
from podrl.envs.settings import wrapper_facts
from podrl.envs.source import EvaluationProtocol, Source, option_facts
from podrl.envs.workers import making
from podrl.envs.workers.calls import call_close
from podrl.envs.workers.info_mask import FROM_INFO
from podrl.envs.workers.making import Recipe
from podrl.envs.workers.wrappers import time_limits
from podrl.types import EnvSpec

_OWNED = {"render_mode": "podrl sets it where a film is made", "disable_env_checker": "podrl has checks of its own"}
_STEPS_PER_SECOND = 30.0


def make_spec(config: EnvConfig) -> EnvSpec:
    """Makes one environment, tries a reset and a step, and describes it.

    Args:
        config: the environment's config; see the module for `id` and `options`.

    Raises:
        ConfigError: on an unknown environment or option, one that podrl cannot train on, or one that violates
            Gymnasium's interface.
    """
    return try_out(_recipe(config).make, config)


def make_pool(
    config: EnvConfig, *, seeds: Sequence[int], num_threads: int, env_numbers: Sequence[int] | None = None
) -> GymnasiumPool:
    """Makes one environment per seed.

    Args:
        config: config as for `make_spec`.
        seeds: [B] in [0, 2**31), one per environment.
        num_threads: not used: Python runs one thread at a time. See `env.workers`.
        env_numbers: [B]; the environments' numbers, from 0 by default.

    Raises:
        ConfigError: as in `make_spec`.
        ValueError: if there are no seeds.
    """
    del num_threads
    recipes = _recipes(config, env_numbers or range(len(seeds)))
    return GymnasiumPool(make_batch([recipe.make for recipe in recipes], seeds, config), config)


def make_picture_pool(
    config: EnvConfig, *, seeds: Sequence[int], num_threads: int, env_numbers: Sequence[int] | None = None
) -> GymnasiumPool:
    """Makes one environment per seed, in this process, whose `picture` works if it has `render_mode='rgb_array'`."""
    del num_threads
    recipes = _recipes(config, env_numbers or range(len(seeds)))
    makes = [dataclasses.replace(recipe, render_mode="rgb_array").make for recipe in recipes]
    return GymnasiumPool(make_batch(makes, seeds, config, in_process=True), config)


def make_spaces(config: EnvConfig) -> tuple[Any, Any]:
    """Returns the spaces of an environment as `config` wraps it. Raises as `make_spec` does."""
    env = _recipe(config).make()
    spaces = env.observation_space, env.action_space
    call_close(env, f"env.id={config.id!r}")
    return spaces


def option_hints(config: EnvConfig) -> dict[str, Any]:
    """Returns a type hint for each argument that the environment's constructor names. Raises as `make_spec` does."""
    return making.constructor_hints(config.id)


def evaluation_protocol(config: EnvConfig, *, env_number: int = 0) -> EvaluationProtocol:
    """Returns the protocol: whole episodes, up to the environment's own limit, without training wrappers.

    Everything else is as in `config`. `env_number` is that of the environment that is made to find its limit.

    Raises:
        ConfigError: as in `make_spec`.
    """
    env = dataclasses.replace(config, max_episode_steps=0, training_wrappers=())
    made = _recipe(env, env_number).make()
    limit = _time_limit(made)
    call_close(made, f"env.id={env.id!r}")
    return EvaluationProtocol(
        env=env,
        facts={"max_episode_steps": "none" if limit is None else limit} | wrapper_facts(config) | option_facts(config),
        max_episode_steps=limit,
        steps_per_second=float(made.metadata.get("render_fps") or _STEPS_PER_SECOND),
    )


def _recipes(config: EnvConfig, env_numbers: Sequence[int]) -> list[Recipe]:
    """Returns the recipes of environments with these numbers: one and the same where they do not differ."""
    if not numbered_keys(config):
        return [_recipe(config)] * len(env_numbers)
    return [_recipe(config, number) for number in env_numbers]


def _recipe(config: EnvConfig, env_number: int = 0) -> Recipe:
    """Returns the recipe that `config` asks for, for the environment with this number."""
    config = with_number(config, env_number)
    for name in config.options:
        check(name not in _OWNED, f"env.options.{name} is not yours to set: {_OWNED.get(name)}.")
    return Recipe(
        id=config.id,
        arguments=config.options,
        max_episode_steps=config.max_episode_steps,
        wrappers=config.wrappers,
        training_wrappers=config.training_wrappers,
        info_mask=config.action_mask.removeprefix(FROM_INFO) if config.action_mask.startswith(FROM_INFO) else "",
    )


def _time_limit(env: gymnasium.Env) -> int | None:
    """Returns the least of the time limits around an environment; one of them enforces its registered limit."""
    return min((wrapper._max_episode_steps for wrapper in time_limits(env)), default=None)


SOURCE = Source(
    make_spec=make_spec,
    make_pool=make_pool,
    gives_numbers=True,
    gives_info=True,
    settings=ENV_SETTINGS,
    option_hints=option_hints,
    evaluation_protocol=evaluation_protocol,
    make_picture_pool=make_picture_pool,
    make_spaces=make_spaces,
)
