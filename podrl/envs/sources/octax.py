"""Octax: CHIP-8's arcade games as JAX programs, seen in pixels: `pip install -e '.[octax]'`.

They step inside the compiled program (`topology.placement='anakin'`), and on the host's CPU like any other source.
`env.id` is one of Octax's games, such as `brix`, with a level where a game has several, such as `cavern3`. The
cartridges are in the wheel.

An observation is the screen [32, 64, C] after each of the step's `frame_skip` frames, in order, of uint8: 255 where a
pixel is lit. An action is one of the game's keys, or, the last one, none.

Facts about Octax, checked on 0.1.1:

- `step` neither resets nor stops at the time limit, and tells the two ends of an episode apart.
- Every episode opens in the same state; what is random comes from the key that `reset` puts into it.
- `create_environment` writes a level's cartridge into the game's module, where a later call would find it, so the
  environment is made here.
- It imports OpenCV and Pillow without asking for them.
- JAX warns of its casts, such as a key that is 1 and becomes a bool; later versions of JAX will refuse them.

Source: Radji et al. 2025, arXiv:2510.01764, https://github.com/riiswa/octax.
"""

from collections.abc import Iterator, Sequence
import contextlib
import dataclasses
import functools
import importlib
import json
from pathlib import Path
import pkgutil
from typing import Any
import warnings

import jax
from jax import numpy as jnp

from podrl.actions import DiscreteActions
from podrl.config.config import ConfigError, EnvConfig, check, check_not_a_setting, did_you_mean
from podrl.config.extras import install_command
from podrl.envs.options import checked_option
from podrl.envs.pools.in_graph import DevicePool, Transition, make_many
from podrl.envs.source import EvaluationProtocol, JaxEnvironment, Source, option_facts
from podrl.types import EnvSpec, PyTree

try:
    from octax import environments
    from octax.env import OctaxEnv
except ModuleNotFoundError as missing:
    if missing.name not in ("octax", "cv2", "PIL"):
        raise
    raise ConfigError(f"env.source='octax' needs Octax: {install_command('octax')} ({missing}).") from None

_TIME_LIMIT = "max_num_steps_per_episodes"
_MAX_EPISODE_STEPS = 4500
_HIGHEST_FREQUENCY = 100_000
_DEFAULTS = {"frame_skip": 4, "instruction_frequency": 700, "fps": 60}


def make_spec(config: EnvConfig) -> EnvSpec:
    """Describes one game.

    Args:
        config: config whose `options` are `frame_skip`, frames in each step; `instruction_frequency`, the emulator's
            instructions in a second; and `fps`, frames in a second.

    Raises:
        ConfigError: on an unknown game or option.
    """
    env = _make(config)
    observation = jax.eval_shape(lambda key: _observed(env.reset(key)[1]), jax.random.PRNGKey(0))
    return EnvSpec(
        id=config.id,
        observation=jax.ShapeDtypeStruct(observation.shape, observation.dtype),
        actions=DiscreteActions(env.num_actions),
        frames_per_step=env.frame_skip,
        observed=f"image {'x'.join(map(str, observation.shape))}, channels last, pixels (255 counts as 1)",
    )


def make_environment(config: EnvConfig) -> JaxEnvironment:
    """Returns the game as pure functions; the same object for equal configs. Raises as `make_spec` does."""
    return _make_environment(json.dumps(dataclasses.asdict(config), sort_keys=True))


def make_pool(config: EnvConfig, *, seeds: Sequence[int], num_threads: int) -> DevicePool:
    """Makes one game per seed, on the host's CPU.

    Args:
        config: config as for `make_spec`.
        seeds: [B] in [0, 2**31), one per game.
        num_threads: not used; XLA's threads serve the whole process.

    Raises:
        ConfigError: as in `make_spec`.
        ValueError: if there are no seeds.
    """
    del num_threads
    return DevicePool(make_environment(config), make_spec(config).actions.struct, seeds)


def option_hints(config: EnvConfig) -> dict[str, Any]:
    """Returns a type hint for each option of a game."""
    del config
    return {name: type(default) for name, default in _DEFAULTS.items()}


def evaluation_protocol(config: EnvConfig) -> EvaluationProtocol:
    """Returns the protocol: whole games of at most 4,500 steps, Octax's own limit; the rest as in `config`.

    Raises as `make_spec` does.
    """
    env = dataclasses.replace(config, max_episode_steps=0)
    game = _make(env)
    return EvaluationProtocol(
        env=env,
        facts={"max_episode_steps": _MAX_EPISODE_STEPS} | option_facts(config),
        max_episode_steps=_MAX_EPISODE_STEPS,
        steps_per_second=game.fps / game.frame_skip,
    )


@functools.cache
def _make_environment(values: str) -> JaxEnvironment:
    """Makes the game; its config is passed as JSON, so that the cache can compare it."""
    env = _make(EnvConfig(**json.loads(values)))

    def reset(key: jax.Array) -> tuple[PyTree, jax.Array]:
        state, frames, _ = env.reset(jax.random.key_data(key))
        return state, _observed(frames)

    def step(key: jax.Array, state: PyTree, action: jax.Array) -> Transition:
        del key  # The state has its own.
        with _without_warnings_of_casts():
            state, frames, reward, terminated, truncated, info = env.step(state, action)
        return Transition(state, _observed(frames), reward, jnp.asarray(terminated, bool), truncated, info)

    return make_many(reset, step)


def _observed(frames: jax.Array) -> jax.Array:
    """Returns frames [C, W, H] of bool as an image [H, W, C] of uint8."""
    return frames.transpose(2, 1, 0).astype(jnp.uint8) * jnp.uint8(255)


def _make(config: EnvConfig) -> OctaxEnv:
    """Makes Octax's environment, after all checks."""
    check(not config.observation_keys, "env.observation_keys must be empty: Octax's observations are no dictionaries.")
    check(config.channels != "first", "env.channels='first' cannot be: Octax's images have their channels last.")
    check(config.uint8 != "numbers", "env.uint8='numbers' cannot be: Octax's images are pixels.")
    games = _cartridges()
    check(
        config.id in games,
        f"env.id={config.id!r} is not a game of Octax{did_you_mean(config.id, games)} Available: {', '.join(games)}.",
    )
    for name in config.options:
        check(name != _TIME_LIMIT, f"env.options.{name} is not yours to set: set env.max_episode_steps.")
        check_not_a_setting(name, config.id)
        check(
            name in _DEFAULTS,
            f"env.options.{name} is not an option of {config.id}{did_you_mean(name, _DEFAULTS)} "
            f"Available: {', '.join(sorted(_DEFAULTS))}.",
        )
    options = {name: checked_option(name, value, _DEFAULTS[name]) for name, value in config.options.items()}
    fps, frequency = (options.get(name, _DEFAULTS[name]) for name in ("fps", "instruction_frequency"))
    check(
        0 < fps <= frequency,
        f"env.options.fps={fps} must lie in [1, {frequency}], the instruction_frequency: a frame needs an instruction.",
    )
    check(
        frequency <= _HIGHEST_FREQUENCY,
        f"env.options.instruction_frequency={frequency} must be at most {_HIGHEST_FREQUENCY:,}: the program keeps the "
        "screen after each of a step's instructions.",
    )
    module = importlib.import_module(f"{environments.__name__}.{config.id.rstrip('0123456789')}")
    with _without_warnings_of_casts():
        return OctaxEnv(
            environments.get_rom_path(games[config.id]),
            max_num_steps_per_episodes=config.max_episode_steps or _MAX_EPISODE_STEPS,
            score_fn=module.score_fn,
            terminated_fn=module.terminated_fn,
            action_set=module.action_set,
            startup_instructions=getattr(module, "startup_instructions", 0),
            custom_startup=getattr(module, "custom_startup", None),
            disable_delay=getattr(module, "disable_delay", False),
            **options,
        )


@contextlib.contextmanager
def _without_warnings_of_casts() -> Iterator[None]:
    """Silences JAX's warnings of Octax's casts while Octax is traced."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "scatter inputs have incompatible types", FutureWarning)
        yield


@functools.cache
def _cartridges() -> dict[str, str]:
    """Returns the file names of cartridges by games' ids."""
    found: dict[str, str] = {}
    for name in sorted(module.name for module in pkgutil.iter_modules(environments.__path__)):
        own = getattr(importlib.import_module(f"{environments.__name__}.{name}"), "rom_file", "")
        files = Path(environments.get_rom_path(".")).glob(f"{name}*.ch8")
        levels = sorted((file.stem for file in files if file.stem.removeprefix(name).isdigit()), key=_level)
        found |= {level: f"{level}.ch8" for level in levels} or {name: own}
    return found


def _level(game: str) -> int:
    return int(game.lstrip("abcdefghijklmnopqrstuvwxyz_"))


SOURCE = Source(
    make_spec=make_spec,
    make_pool=make_pool,
    gives_info=True,
    settings=("max_episode_steps",),
    option_hints=option_hints,
    evaluation_protocol=evaluation_protocol,
    make_environment=make_environment,
)
