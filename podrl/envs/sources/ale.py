"""The Arcade Learning Environment's own vector environment: the games of EnvPool's Atari, stepped by C++ threads.

Only `--config.env.source=ale` changes: ids, options, defaults and protocol are those of `podrl.envs.sources.envpool`.
Without sticky actions and with `noop_max=1` every observation is the same, too, with these exceptions:

- A game's last observation may be that of the step before, if the game ends within a step.
- EnvPool opens a game that needs no fire button with a frame without an action, ALE does not.
- EnvPool shows only a part of the screens of `podrl.envs.pools.atari_screens`.

ALE is a wheel of 3 MB with all games, EnvPool of 600 MB. Its vector environment has no modes, difficulties or episodes
of one life; of its single games, `env.source=gymnasium` makes Gymnasium's environments, with wrappers.

Source: Bellemare et al. 2013, arXiv:1207.4708; Machado et al. 2018, arXiv:1709.06009.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

from podrl.config.config import ConfigError, EnvConfig, check, check_not_a_setting, did_you_mean
from podrl.config.extras import install_command
from podrl.envs.observations import make_encoding
from podrl.envs.options import checked_option
from podrl.envs.pools.envpool_pool import SynchronousPool
from podrl.envs.source import EvaluationProtocol, Source
from podrl.envs.spaces import make_action_encoding
from podrl.types import EnvSpec

try:
    from podrl.envs.pools.ale_games import AleGames, list_games
except ModuleNotFoundError as missing:  # A missing dependency of ALE keeps its own error.
    if missing.name != "ale_py":
        raise
    raise ConfigError(f"env.source='ale' needs ALE: {install_command('ale')}.") from None

_FRAMES = 108_000
_FRAMES_PER_SECOND = 60
_DEFAULTS: dict[str, Any] = {
    "frame_skip": 4,
    "noop_max": 30,
    "use_fire_reset": True,
    "repeat_action_probability": 0.0,
    "full_action_space": False,
    "img_height": 84,
    "img_width": 84,
    "gray_scale": True,
    "max_episode_frames": _FRAMES,
}
_FACTS = ("max_episode_frames", "frame_skip", "repeat_action_probability", "noop_max", "use_fire_reset")
# EnvPool's options that ALE's vector environment lacks, with the values that change nothing.
_LACKING = {"episodic_life": False, "mode": -1, "difficulty": -1}


def make_spec(config: EnvConfig) -> EnvSpec:
    """Describes one game.

    Args:
        config: config whose `id` is a game such as `Pong-v5`; its `options` are those of EnvPool's Atari.

    Raises:
        ConfigError: on an unknown game or option, or one that ALE's vector environment lacks.
    """
    options = _options(config)
    games = _make_games(config, options, [0])
    encoding = make_encoding(games.observation_space, config)
    return EnvSpec(
        id=config.id,
        observation=encoding.struct,
        actions=make_action_encoding(games.action_space, config.id).actions,
        frames_per_step=options["frame_skip"],
        observed=encoding.text,
        env_before=encoding.env_before,
    )


def make_pool(config: EnvConfig, *, seeds: Sequence[int], num_threads: int) -> SynchronousPool:
    """Makes one game per seed.

    Args:
        config: config as for `make_spec`.
        seeds: [B] in [0, 2**31), one per game.
        num_threads: C++ threads of this pool, at least 1; more than B are of no use and not started.

    Raises:
        ConfigError: as in `make_spec`.
        ValueError: if there are no seeds or no threads.
    """
    return _make_pool(config, seeds, num_threads)


def make_picture_pool(config: EnvConfig, *, seeds: Sequence[int], num_threads: int) -> SynchronousPool:
    """Makes a pool like `make_pool`'s whose `picture` is the screen."""
    return _make_pool(config, seeds, num_threads, with_pictures=True)


def option_hints(config: EnvConfig) -> dict[str, Any]:
    """Returns a type hint for each option of a game."""
    del config
    return {name: type(default) for name, default in (_DEFAULTS | _LACKING).items()}


def evaluation_protocol(config: EnvConfig) -> EvaluationProtocol:
    """Returns the protocol: a whole game, all lives, of at most 108,000 frames (half an hour); the rest as in `config`.

    Raises:
        ConfigError: as in `make_spec`.
    """
    options: dict[str, Any] = {**config.options, "max_episode_frames": _FRAMES}
    facts = {name: options.get(name, _DEFAULTS[name]) for name in (*_FACTS, "full_action_space")}
    frame_skip = _options(config)["frame_skip"]
    return EvaluationProtocol(
        env=dataclasses.replace(config, max_episode_steps=0, options=options),
        facts=facts,
        max_episode_steps=_FRAMES // frame_skip,
        steps_per_second=_FRAMES_PER_SECOND / frame_skip,
    )


def _make_pool(
    config: EnvConfig, seeds: Sequence[int], num_threads: int, *, with_pictures: bool = False
) -> SynchronousPool:
    """Makes a pool."""
    if not seeds or num_threads < 1:
        raise ValueError(f"A pool needs seeds and threads; found {len(seeds)} seeds and num_threads={num_threads}.")
    games = _make_games(config, _options(config), seeds, min(num_threads, len(seeds)), with_pictures)
    encoding = make_encoding(games.observation_space, config)
    actions = make_action_encoding(games.action_space, config.id)
    return SynchronousPool(games, encoding, actions, num_envs=games.num_envs, env_id=config.id)


def _make_games(
    config: EnvConfig,
    options: Mapping[str, Any],
    seeds: Sequence[int],
    num_threads: int = 1,
    with_pictures: bool = False,
) -> AleGames:
    """Makes ALE's games with podrl's options in ALE's names."""
    steps = config.max_episode_steps or max(1, options["max_episode_frames"] // options["frame_skip"])
    names = ("noop_max", "use_fire_reset", "repeat_action_probability", "full_action_space", "img_height", "img_width")
    preprocessing = {name: options[name] for name in names}
    preprocessing |= {"frameskip": options["frame_skip"], "grayscale": options["gray_scale"]}
    return AleGames(
        list_games()[config.id],
        seeds,
        num_threads=num_threads,
        max_episode_steps=steps,
        preprocessing=preprocessing,
        with_pictures=with_pictures,
    )


def _options(config: EnvConfig) -> dict[str, Any]:
    """Returns all options that `config` asks for, checked."""
    check(not config.observation_keys, f"env.observation_keys={config.observation_keys} must be empty for Atari.")
    games = list_games()
    check(config.id in games, f"env.id={config.id!r} is not one of ALE's games{did_you_mean(config.id, games)}")
    for name, harmless in _LACKING.items():
        value = config.options.get(name, harmless)
        check(
            value == harmless,
            f"env.options.{name}={value!r} is not available in ALE's vector environment; use env.source='envpool'.",
        )
    chosen = {name: _checked(name, value) for name, value in config.options.items() if name not in _LACKING}
    return {**_DEFAULTS, **chosen}


def _checked(name: str, value: Any) -> Any:
    """Returns an option's value in the type of its default; integers may stand for floats."""
    check_not_a_setting(name, "env.source='ale'")
    check(
        name in _DEFAULTS,
        f"env.options.{name} is not an option of env.source='ale'{did_you_mean(name, _DEFAULTS)} "
        f"Available: {', '.join(sorted(_DEFAULTS))}.",
    )
    return checked_option(name, value, _DEFAULTS[name])


SOURCE = Source(
    make_spec=make_spec,
    make_pool=make_pool,
    settings=("max_episode_steps",),
    option_hints=option_hints,
    evaluation_protocol=evaluation_protocol,
    make_picture_pool=make_picture_pool,
    gives_info=True,
)
