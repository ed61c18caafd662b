"""EnvPool: Atari, classic control, Box2D, MuJoCo, DM Control, MiniGrid and more, stepped by C++ threads.

Pools are synchronous (every step returns every environment, in order) and use EnvPool's `gymnasium` interface: its `dm`
interface gives truncated episodes a discount of 0. EnvPool resets on the next step, which is podrl's own rule. Atari
comes one frame at a time, [84, 84, 1] by default: the stack of four is the network's carry.

Facts about EnvPool, checked on 1.2.5:

- A row opens an episode exactly when the row before ended one. `elapsed_step == 0` says the same in all families except
  Atari with `episodic_life`, where the reset after a lost life continues the same game and the counter keeps counting.
- An episode that terminates on the very step of its time limit is reported as truncated. Only Atari also says that the
  game is over; elsewhere such a step keeps discount 1.
- DM Control's episodes always end by truncation. Its reset rows repeat the last reward, which is removed here.
- MuJoCo and DM Control have float64 observations and actions, and clip actions that leave their range.
- MuJoCo and DM Control give an image, 84x84, with `from_pixels`, whose options `make_spec` lists only then.
- Some families (those whose `max_episode_steps` is 2**31 - 1) have no time limit and ignore a given one.
- An option out of range can abort the whole process from C++, so the known ones are checked here.

Source: Weng et al. 2022, arXiv:2206.10558; https://envpool.readthedocs.io.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

import gymnasium

from podrl.config.config import ConfigError, EnvConfig, check, did_you_mean
from podrl.config.extras import install_command
from podrl.envs.action_masks import fit_to_mask
from podrl.envs.encodings import Encoding
from podrl.envs.observations import make_encoding
from podrl.envs.pools.envpool_drawing import check_drawing
from podrl.envs.pools.envpool_errors import refusals_as_config_errors
from podrl.envs.pools.envpool_options import NO_LIMIT, check_options, is_emulator, is_simulation, option_types
from podrl.envs.pools.envpool_pool import SynchronousPool, is_grid
from podrl.envs.source import EvaluationProtocol, Source, option_facts
from podrl.envs.spaces import ActionEncoding, make_action_encoding
from podrl.types import EnvSpec

try:
    import envpool
except (ImportError, OSError) as missing:  # It looks for its assets, a package of their own, while it is imported.
    raise ConfigError(
        "env.source='envpool' needs EnvPool and its assets: pip install --force-reinstall envpool envpool-assets "
        f"({str(missing).partition(chr(10))[0]}). Atari's games are also in a wheel of 3 MB: {install_command('ale')} "
        "and --config.env.source=ale."
    ) from None

_ATARI_FRAMES = 108_000
_ATARI_FACTS: tuple[str, ...] = ("max_episode_frames", "frame_skip", "repeat_action_probability", "noop_max")
_ATARI_FACTS += ("use_fire_reset", "full_action_space", "episodic_life")
_STEPS_PER_SECOND = 50.0  # For Box2D and most of classic control.
_GRID_STEPS_PER_SECOND = 5.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Task:
    """A config after all checks.

    Attributes:
        options: arguments of `envpool.make`.
        encoding: encoding of observations.
        action_encoding: encoding of actions.
        frames_per_step: emulator frames per action; 1 without an emulator.
    """

    options: Mapping[str, Any]
    encoding: Encoding
    action_encoding: ActionEncoding
    frames_per_step: int


def make_spec(config: EnvConfig) -> EnvSpec:
    """Describes one environment.

    Args:
        config: config whose `options` are EnvPool's own, by its names and types, except those that podrl sets. In
            addition `max_episode_frames` gives the time limit in emulator frames, where the environment skips frames.

    Raises:
        ConfigError: on an unknown environment or option, or one that podrl cannot train on.
    """
    task = _resolve(config)
    return EnvSpec(
        id=config.id,
        observation=task.encoding.struct,
        actions=task.action_encoding.actions,
        frames_per_step=task.frames_per_step,
        observed=task.encoding.text,
        env_before=task.encoding.env_before,
    )


def make_pool(config: EnvConfig, *, seeds: Sequence[int], num_threads: int) -> SynchronousPool:
    """Makes one environment per seed.

    Args:
        config: config as for `make_spec`.
        seeds: [B] in [0, 2**31), one per environment.
        num_threads: C++ threads of this pool, at least 1; more than B are of no use and not started.

    Raises:
        ConfigError: as in `make_spec`.
        ValueError: if there are no seeds or no threads.
    """
    return _make_pool(config, seeds, num_threads)


def make_picture_pool(config: EnvConfig, *, seeds: Sequence[int], num_threads: int) -> SynchronousPool:
    """Makes a pool like `make_pool`'s whose `picture` works.

    Raises:
        ConfigError: as in `make_spec`, or if MuJoCo would have to draw and cannot.
    """
    _resolve(config)
    if is_simulation(_defaults(config)):
        check_drawing(config)
    return _make_pool(config, seeds, num_threads, render_mode="rgb_array")


def make_spaces(config: EnvConfig) -> tuple[Any, Any]:
    """Returns the spaces of one environment. Raises as `make_spec` does."""
    options = _resolve(config).options
    with refusals_as_config_errors(config):
        spec = envpool.make_spec(config.id, **options)
        return spec.gymnasium_observation_space, spec.gymnasium_action_space


def option_hints(config: EnvConfig) -> dict[str, Any]:
    """Returns a type hint for each option of the environment. Raises as `make_spec` does."""
    _check_known(config)
    return {name: type(value) for name, value in option_types(_defaults(config)).items()}


def evaluation_protocol(config: EnvConfig) -> EvaluationProtocol:
    """Returns the protocol: whole episodes up to the environment's own time limit; the rest as in `config`.

    For Atari that is a whole game, all lives, of at most 108,000 frames, which is half an hour. Rewards are always raw.

    Raises:
        ConfigError: as in `make_spec`.

    Source: Machado et al. 2018, arXiv:1709.06009.
    """
    task = _resolve(config)
    options, defaults = dict(config.options), _defaults(config)
    if "episodic_life" not in defaults:
        limit = defaults["max_episode_steps"]
        facts = {"max_episode_steps": "none" if limit == NO_LIMIT else limit} | option_facts(config)
        with refusals_as_config_errors(config):
            grid = is_grid(envpool.make_spec(config.id, **options).gymnasium_observation_space)
        return EvaluationProtocol(
            env=dataclasses.replace(config, max_episode_steps=0),
            facts=facts,
            max_episode_steps=None if limit == NO_LIMIT else limit,
            steps_per_second=_GRID_STEPS_PER_SECOND if grid else _STEPS_PER_SECOND,
        )
    options |= {"episodic_life": False, "max_episode_frames": _ATARI_FRAMES}
    facts = {name: options.get(name, defaults.get(name)) for name in _ATARI_FACTS}
    return EvaluationProtocol(
        env=dataclasses.replace(config, max_episode_steps=0, options=options),
        facts=facts | {name: options[name] for name in ("mode", "difficulty") if name in options},
        max_episode_steps=_ATARI_FRAMES // task.frames_per_step,
        steps_per_second=60 / task.frames_per_step,
    )


def _make_pool(config: EnvConfig, seeds: Sequence[int], num_threads: int, **wrapper: Any) -> SynchronousPool:
    """Makes a pool; `wrapper` are arguments of EnvPool's wrapper in Python."""
    if not seeds or num_threads < 1:
        raise ValueError(f"A pool needs seeds and threads; found {len(seeds)} seeds and num_threads={num_threads}.")
    task = _resolve(config)
    if task.options.get("from_pixels"):
        check_drawing(config)
    options = {**task.options, **wrapper}
    with refusals_as_config_errors(config):
        if "vzd_path" in envpool.make_spec(config.id).config._asdict():
            # ViZDoom's games are processes, and several threads at once fork those of a pool. OpenBLAS, below SciPy,
            # ends its threads before a fork, and hangs where two forks do so at the same time; after one fork by itself
            # no threads are left to end.
            envpool.make(config.id, "gymnasium", num_envs=1, num_threads=1, **options)
        env = envpool.make(
            config.id,
            "gymnasium",
            num_envs=len(seeds),
            batch_size=len(seeds),
            num_threads=min(num_threads, len(seeds)),
            env_seed=list(seeds),
            **options,
        )
        _ = env.observation_space  # Cached by EnvPool; built here, where its warnings are silenced.
    return SynchronousPool(env, task.encoding, task.action_encoding, num_envs=len(seeds), env_id=config.id)


def _defaults(config: EnvConfig) -> dict[str, Any]:
    """Returns all options of the environment, with EnvPool's values."""
    with refusals_as_config_errors(config):
        return envpool.make_spec(config.id).config._asdict()


def _check_known(config: EnvConfig) -> None:
    """Raises `ConfigError` if EnvPool has no such environment."""
    known = envpool.list_all_envs()
    check(
        config.id in known,
        f"env.id={config.id!r} is not an EnvPool environment{did_you_mean(config.id, known)}",
    )


def _resolve(config: EnvConfig) -> _Task:
    """Checks what `config` asks for against what EnvPool has."""
    _check_known(config)
    defaults = _defaults(config)
    options = check_options(config, defaults)
    with refusals_as_config_errors(config):
        spec = envpool.make_spec(config.id, **options)
        action_space, observation_space = spec.gymnasium_action_space, spec.gymnasium_observation_space
    check(
        defaults["max_num_players"] == 1,
        f"env.id={config.id!r} is a game of {defaults['max_num_players']} players; podrl trains one player.",
    )
    check(
        not isinstance(action_space, gymnasium.spaces.Dict),
        f"env.id={config.id!r} takes several actions at once, {action_space}, which podrl does not give to EnvPool.",
    )
    actions = make_action_encoding(action_space, config.id)
    encoding = make_encoding(observation_space, config, actions.actions)
    return _Task(
        options=options,
        encoding=encoding,
        action_encoding=fit_to_mask(actions, encoding, config),
        frames_per_step=options.get("frame_skip", defaults["frame_skip"]) if is_emulator(defaults) else 1,
    )


SOURCE = Source(
    make_spec=make_spec,
    make_pool=make_pool,
    gives_info=True,
    settings=("max_episode_steps",),
    option_hints=option_hints,
    evaluation_protocol=evaluation_protocol,
    make_picture_pool=make_picture_pool,
    make_spaces=make_spaces,
)
