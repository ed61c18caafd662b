"""The Arcade Learning Environment itself, through Gymnasium: the games of EnvPool's Atari, with its options.

Only `--config.env.source=ale` changes: ids, options, defaults and protocol are those of `podrl.envs.sources.envpool`.
Without sticky actions and with `noop_max=1` every observation is the same, too, with two exceptions: a game's last
observation may be that of the step before, which Gymnasium's preprocessing keeps if the game ends within a step, and
EnvPool shows only a part of the screens of `podrl.envs.pools.atari_screens`. EnvPool is several times as fast; this
source is for comparisons, and for machines without EnvPool.

Source: Bellemare et al. 2013, arXiv:1207.4708; Machado et al. 2018, arXiv:1709.06009.
"""

from collections.abc import Sequence
import dataclasses
from typing import Any

from podrl.config.config import ENV_SETTINGS, EnvConfig, check, check_not_a_setting, did_you_mean
from podrl.config.ranges import check_option
from podrl.envs.pools.gymnasium_pool import GymnasiumPool, make_batch, try_out
from podrl.envs.settings import wrapper_facts
from podrl.envs.source import EvaluationProtocol, Source
from podrl.envs.workers.atari import AtariRecipe
from podrl.types import EnvSpec

_FRAMES = 108_000
_FRAMES_PER_SECOND = 60
_DEFAULTS = {
    field.name: field.default
    for field in dataclasses.fields(AtariRecipe)
    if field.name not in ("game", "max_episode_steps", "wrappers", "training_wrappers", "render_mode")
} | {"max_episode_frames": _FRAMES}
_FACTS = ("max_episode_frames", "frame_skip", "repeat_action_probability", "noop_max", "use_fire_reset")


def make_spec(config: EnvConfig) -> EnvSpec:
    """Describes one game.

    Args:
        config: config whose `id` is a game such as `Pong-v5`; its `options` are those of EnvPool's Atari.

    Raises:
        ConfigError: on an unknown game or option, or if a package is missing.
    """
    recipe = _recipe(config)
    return try_out(recipe.make, config, frames_per_step=recipe.frame_skip)


def make_pool(config: EnvConfig, *, seeds: Sequence[int], num_threads: int) -> GymnasiumPool:
    """Makes one game per seed.

    Args:
        config: config as for `make_spec`.
        seeds: [B] in [0, 2**31), one per game.
        num_threads: not used; see `env.workers`.

    Raises:
        ConfigError: as in `make_spec`.
        ValueError: if there are no seeds.
    """
    del num_threads
    return GymnasiumPool(make_batch(_recipe(config).make, seeds, config), config)


def make_picture_pool(config: EnvConfig, *, seeds: Sequence[int], num_threads: int) -> GymnasiumPool:
    """Makes one game per seed, in this process, whose `picture` is the screen."""
    del num_threads
    recipe = dataclasses.replace(_recipe(config), render_mode="rgb_array")
    return GymnasiumPool(make_batch(recipe.make, seeds, config, in_process=True), config)


def option_hints(config: EnvConfig) -> dict[str, Any]:
    """Returns a type hint for each option of a game."""
    del config
    return {name: type(default) for name, default in (_DEFAULTS | {"episodic_life": False}).items()}


def evaluation_protocol(config: EnvConfig) -> EvaluationProtocol:
    """Returns the protocol: a whole game, all lives, of at most 108,000 frames (half an hour); the rest as in `config`.

    Raises:
        ConfigError: as in `make_spec`.
    """
    recipe = _recipe(config)
    options: dict[str, Any] = {**config.options, "max_episode_frames": _FRAMES}
    facts = {name: options.get(name, _DEFAULTS[name]) for name in (*_FACTS, "full_action_space")}
    return EvaluationProtocol(
        env=dataclasses.replace(config, max_episode_steps=0, training_wrappers=(), options=options),
        facts=facts
        | wrapper_facts(config)
        | {name: options[name] for name in ("mode", "difficulty") if name in options},
        max_episode_steps=_FRAMES // recipe.frame_skip,
        steps_per_second=_FRAMES_PER_SECOND / recipe.frame_skip,
    )


def _recipe(config: EnvConfig) -> AtariRecipe:
    """Returns the recipe that `config` asks for, checked."""
    check(not config.observation_keys, f"env.observation_keys={config.observation_keys} must be empty for Atari.")
    options = dict(config.options)
    check(
        not options.pop("episodic_life", False),
        "env.options.episodic_life=True is not available with env.source='ale', whose games begin anew after each "
        "episode; use env.source='envpool'.",
    )
    options = {name: _checked(name, value) for name, value in options.items()}
    steps = AtariRecipe.max_episode_steps
    if "max_episode_frames" in options:
        steps = max(1, options.pop("max_episode_frames") // options.get("frame_skip", _DEFAULTS["frame_skip"]))
    steps = config.max_episode_steps or steps
    return AtariRecipe(
        game=config.id,
        max_episode_steps=steps,
        wrappers=config.wrappers,
        training_wrappers=config.training_wrappers,
        **options,
    )


def _checked(name: str, value: Any) -> Any:
    """Returns an option's value in the type of its default; integers may stand for floats."""
    check_not_a_setting(name, "env.source='ale'")
    check(
        name in _DEFAULTS,
        f"env.options.{name} is not an option of env.source='ale'{did_you_mean(name, _DEFAULTS)} "
        f"Available: {', '.join(sorted(_DEFAULTS))}.",
    )
    expected = type(_DEFAULTS[name])
    if expected is float and type(value) is int:
        value = float(value)
    check(
        type(value) is expected,
        f"env.options.{name}={value!r} has type {type(value).__name__}; expected {expected.__name__}.",
    )
    check_option(name, value)
    return value


SOURCE = Source(
    make_spec=make_spec,
    make_pool=make_pool,
    settings=ENV_SETTINGS,
    option_hints=option_hints,
    evaluation_protocol=evaluation_protocol,
    make_picture_pool=make_picture_pool,
    gives_info=True,
)
