"""EnvPool: Atari, classic control, Box2D, MiniGrid and more, stepped by C++ threads.

Pools are synchronous (every step returns every environment, in order) and use EnvPool's `gymnasium` interface: its `dm`
interface gives truncated episodes a discount of 0. EnvPool resets on the next step, which is podrl's own rule.

Atari comes one frame at a time, [84, 84, 1] by default: the stack of four is the network's carry.

What EnvPool does, checked on 1.2.5:

- A row opens an episode exactly when the row before ended one. `elapsed_step == 0` says the same in all families but
  Atari with `episodic_life`, where the reset after a lost life plays on in the same game and the counter goes on.
- An episode that terminates on the very step of its time limit is reported as truncated. Only Atari also says that the
  game is over; elsewhere such a step keeps discount 1.
- Some families (those whose `max_episode_steps` is 2**31 - 1) have no time limit and ignore the option.
- An option out of range can abort the whole process from C++, so the known ones are checked here.

Source: Weng et al. 2022, arXiv:2206.10558; https://envpool.readthedocs.io.
"""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import dataclasses
import threading
from typing import Any
import warnings

import envpool
import gymnasium
import numpy as np

from podrl.config import ConfigError, EnvConfig, check, did_you_mean
from podrl.envs import EvaluationProtocol
from podrl.envs.spaces import Encoding, make_encoding
from podrl.types import ActionSpace, DiscreteActions, EnvSpec, Timestep

_NO_LIMIT = 2**31 - 1

# Options that podrl sets itself, or that would mislead, and why.
_OWNED = {
    "num_envs": "it follows from actors.num_envs",
    "batch_size": "pools are synchronous; it follows from actors.num_envs",
    "num_threads": "set actors.env_threads",
    "max_num_players": "podrl trains one player",
    "thread_affinity_offset": "several pools would be pinned to the same cores",
    "base_path": "set the environment variable ENVPOOL_ASSETS_PATH",
    "seed": "it follows from the run's seed",
    "env_seed": "it follows from the run's seed",
    "gym_reset_return_info": "podrl relies on EnvPool's default",
    "stack_num": "frames are stacked on the device; set network.frame_stack",
    "reward_clip": "rewards stay raw; agents clip them",
    "zero_discount_on_life_loss": "it changes nothing in the interface that podrl uses; see episodic_life",
    "task": "env.id chooses it",
    "env_name": "env.id chooses it",
    "task_name": "env.id chooses it",
}
_TIME_LIMITS = ("max_episode_steps", "max_episode_frames")
_ATARI_FRAMES = 108_000
_ATARI_FACTS = (
    "max_episode_frames",
    "frame_skip",
    "repeat_action_probability",
    "noop_max",
    "use_fire_reset",
    "full_action_space",
    "episodic_life",
)
_STEPS_PER_SECOND = 50.0  # Of Box2D and most of classic control.
_GRID_STEPS_PER_SECOND = 5.0
_POSITIVE = ("frame_skip", "noop_max", "img_height", "img_width", "max_episode_steps", "max_episode_frames")

# `warnings.catch_warnings` swaps global state, and actor threads make pools at the same time.
_warnings_lock = threading.Lock()


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Task:
    """A config after all checks.

    Attributes:
        options: for `envpool.make`.
        encoding: of observations.
        actions: what an environment takes.
        frames_per_step: emulator frames per action.
    """

    options: Mapping[str, Any]
    encoding: Encoding
    actions: ActionSpace
    frames_per_step: int


def make_spec(config: EnvConfig) -> EnvSpec:
    """Describes one environment.

    Args:
        config: `options` are EnvPool's own, by its names and types, but for those that podrl sets. In addition
            `max_episode_frames` gives the time limit in emulator frames, where the environment skips frames.

    Raises:
        ConfigError: on an unknown environment or option, or one that podrl cannot train on.
    """
    task = _resolve(config)
    return EnvSpec(
        id=config.id,
        observation=task.encoding.struct,
        actions=task.actions,
        frames_per_step=task.frames_per_step,
    )


def make_pool(config: EnvConfig, *, seeds: Sequence[int], num_threads: int) -> "SynchronousPool":
    """Makes one environment per seed.

    Args:
        config: as for `make_spec`.
        seeds: [B] in [0, 2**31), one per environment.
        num_threads: C++ threads of this pool, at least 1; more than B are of no use and not started.

    Raises:
        ConfigError: as `make_spec`.
        ValueError: if there are no seeds or no threads.
    """
    return _make_pool(config, seeds, num_threads)


def make_picture_pool(config: EnvConfig, *, seeds: Sequence[int], num_threads: int) -> "SynchronousPool":
    """The same, whose `picture` works."""
    return _make_pool(config, seeds, num_threads, render_mode="rgb_array")


def evaluation_protocol(config: EnvConfig) -> EvaluationProtocol:
    """Whole episodes up to the environment's own time limit; everything else as in `config`.

    For Atari that is a whole game, all lives, of at most 108,000 frames, which is half an hour. Rewards are raw in any
    case.

    Raises:
        ConfigError: as `make_spec`.

    Source: Machado et al. 2018, arXiv:1709.06009.
    """
    task = _resolve(config)
    options = {name: value for name, value in config.options.items() if name not in _TIME_LIMITS}
    with _refusals_as_config_errors(config):
        defaults = envpool.make_spec(config.id).config._asdict()
    if "episodic_life" not in defaults:
        limit = defaults["max_episode_steps"]
        facts = {"max_episode_steps": "none" if limit == _NO_LIMIT else limit} | options
        with _refusals_as_config_errors(config):
            grid = _is_grid(envpool.make_spec(config.id, **options).gymnasium_observation_space)
        return EvaluationProtocol(
            env=dataclasses.replace(config, options=options),
            facts=facts,
            steps_per_second=_GRID_STEPS_PER_SECOND if grid else _STEPS_PER_SECOND,
        )
    options |= {"episodic_life": False, "max_episode_frames": _ATARI_FRAMES}
    facts = {name: options.get(name, defaults.get(name)) for name in _ATARI_FACTS}
    return EvaluationProtocol(
        env=dataclasses.replace(config, options=options),
        facts=facts | {name: options[name] for name in ("mode", "difficulty") if name in options},
        steps_per_second=60 / task.frames_per_step,
    )


def _make_pool(config: EnvConfig, seeds: Sequence[int], num_threads: int, **wrapper: Any) -> "SynchronousPool":
    """A pool, with `wrapper` for EnvPool's own wrapper in Python."""
    if not seeds or num_threads < 1:
        raise ValueError(f"A pool needs seeds and threads; found {len(seeds)} seeds and num_threads={num_threads}.")
    task = _resolve(config)
    with _refusals_as_config_errors(config):
        env = envpool.make(
            config.id,
            "gymnasium",
            num_envs=len(seeds),
            batch_size=len(seeds),
            num_threads=min(num_threads, len(seeds)),
            env_seed=list(seeds),
            **task.options,
            **wrapper,
        )
        _ = env.observation_space  # Cached by EnvPool; built here, where its warnings are silenced.
    return SynchronousPool(env, task.encoding, num_envs=len(seeds))


class SynchronousPool:
    """A synchronous EnvPool that speaks in timesteps; see `podrl.envs.Pool`.

    Attributes:
        extras: what EnvPool said beside the newest timestep of `recv`, by its own names; each [B, ...].
    """

    def __init__(self, env: Any, encoding: Encoding, *, num_envs: int):
        """Takes over `env`, which nobody else may step."""
        self._env = env
        self._encoding = encoding
        self._num_envs = num_envs
        self._ended: Any = None  # [B] bool: the last timestep ended the episode
        self._sent = False
        self.extras: Mapping[str, Any] = {}
        self._newest: Any = None  # The raw observation, for `picture`.

    def reset(self) -> Timestep:
        """Opens an episode in every environment."""
        env = self._open_env()
        self._require(not self._sent, "reset() while a step is under way; call recv() first")
        observation, _ = env.reset()
        self._ended = np.zeros(self._num_envs, bool)
        return self._timestep(observation, reward=0.0, terminated=self._ended, first=~self._ended)

    def send(self, action: np.ndarray) -> None:
        """Starts one step with action [B] int32."""
        env = self._open_env()
        self._require(self._ended is not None, "send() before reset()")
        self._require(not self._sent, "send() twice without recv()")
        if action.shape != (self._num_envs,):
            raise ValueError(f"Found action of shape {action.shape}; expected ({self._num_envs},).")
        env.send(action)
        self._sent = True

    def recv(self) -> Timestep:
        """Waits for the step that `send` started."""
        env = self._open_env()
        self._require(self._sent, "recv() without send(), which would wait for ever")
        observation, reward, terminated, truncated, extras = env.recv()
        self._sent = False
        self.extras = extras
        first, self._ended = self._ended, terminated | truncated
        # EnvPool calls a game that ends on its time limit truncated; Atari says here that it is over as well.
        terminated = terminated | (self._ended & (extras.get("terminated", terminated) != 0))
        return self._timestep(observation, reward, terminated, first)

    def picture(self, env: int) -> np.ndarray:
        """[H, W, 3] uint8: what EnvPool draws of environment `env`, or its observation where that is a grid of numbers.

        Raises:
            ConfigError: if EnvPool cannot draw it.
        """
        pool = self._open_env()
        self._require(self._newest is not None, "picture() before reset()")
        self._require(not self._sent, "picture() while a step is under way; call recv() first")
        if _is_grid(pool.observation_space):
            grid = self._newest[env].astype(np.float64)
            brightness = (grid - grid.min()) / max(np.ptp(grid), 1e-9)
            return np.repeat((255 * brightness).astype(np.uint8)[..., np.newaxis], 3, axis=-1)
        try:
            return np.array(pool.render(env_ids=[env])[0])
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            raise ConfigError(f"EnvPool has no picture of this environment: {reason}.") from None

    def close(self) -> None:
        """Frees the C++ threads; a step under way ends first."""
        self._env = None

    def _timestep(self, observation: Any, reward: Any, terminated: Any, first: Any) -> Timestep:
        """Applies the reset rule: rows that are `first` have reward 0 and discount 1."""
        self._newest = observation
        # Any: `Timestep` is annotated with the jax arrays that these become.
        reward = np.where(first, 0.0, reward).astype(np.float32)
        discount: Any = np.where(first | ~terminated, 1.0, 0.0).astype(np.float32)
        return Timestep(
            observation=self._encoding.encode(observation),
            reward=reward,
            discount=discount,
            first=first,
        )

    def _open_env(self) -> Any:
        """The EnvPool, unless closed."""
        self._require(self._env is not None, "use after close()")
        return self._env

    def _require(self, condition: bool, mistake: str) -> None:
        """Raises `RuntimeError` where the calls come in an order that cannot work."""
        if not condition:
            raise RuntimeError(f"Environment pool: {mistake}.")


def _resolve(config: EnvConfig) -> _Task:
    """Checks all that `config` asks for against what EnvPool has."""
    known = envpool.list_all_envs()
    check(
        config.id in known,
        f"env.id={config.id!r} is not an EnvPool environment{did_you_mean(config.id, known)}",
    )
    with _refusals_as_config_errors(config):
        defaults = envpool.make_spec(config.id).config._asdict()
    options = _checked_options(config, defaults)
    with _refusals_as_config_errors(config):
        spec = envpool.make_spec(config.id, **options)
        action_space, observation_space = spec.gymnasium_action_space, spec.gymnasium_observation_space
    check(
        isinstance(action_space, gymnasium.spaces.Discrete),
        f"env.id={config.id!r} has actions {action_space}; podrl trains on discrete actions only.",
    )
    check(
        defaults["max_num_players"] == 1,
        f"env.id={config.id!r} is a game of {defaults['max_num_players']} players; podrl trains one player.",
    )
    return _Task(
        options=options,
        encoding=make_encoding(observation_space, config.observation_keys),
        actions=DiscreteActions(int(action_space.n)),
        frames_per_step=options.get("frame_skip", defaults.get("frame_skip", 1)),
    )


def _checked_options(config: EnvConfig, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """`config.options` by EnvPool's names and types, and what podrl adds to them."""
    types = {name: value for name, value in defaults.items() if name not in _OWNED}
    if "frame_skip" in types:
        types["max_episode_frames"] = 0
    options = {}
    for name, value in config.options.items():
        check(name not in _OWNED, f"env.options.{name} is not yours to set: {_OWNED.get(name)}.")
        check(
            name in types,
            f"env.options.{name} is not an option of {config.id}{did_you_mean(name, types)} "
            f"Available: {', '.join(sorted(types))}.",
        )
        options[name] = _checked_option(name, value, types[name])
    if "max_episode_steps" in options and defaults["max_episode_steps"] == _NO_LIMIT:
        raise ConfigError(f"env.options.max_episode_steps has no effect on {config.id}: EnvPool never truncates it.")
    if "max_episode_frames" in options:
        check(
            "max_episode_steps" not in options,
            "env.options.max_episode_frames and env.options.max_episode_steps say the same; set one of them.",
        )
        frame_skip = options.get("frame_skip", defaults["frame_skip"])
        options["max_episode_steps"] = max(1, options.pop("max_episode_frames") // frame_skip)
    return options | ({"stack_num": 1} if "stack_num" in defaults else {})


def _checked_option(name: str, value: Any, default: Any) -> Any:
    """`value` in the type of EnvPool's default; integers may stand for floats, and lists for tuples."""
    expected = type(default)
    if (expected is float and type(value) is int) or (
        isinstance(default, list | tuple) and isinstance(value, list | tuple)
    ):
        value = expected(value)
    check(
        type(value) is expected,
        f"env.options.{name}={value!r} has type {type(value).__name__}; expected {expected.__name__}.",
    )
    check(name not in _POSITIVE or value >= 1, f"env.options.{name}={value!r} must be at least 1.")
    return value


def _is_grid(space: gymnasium.Space) -> bool:
    """Whether observations are two-dimensional, such as Catch's: a picture with numbers for colours."""
    return isinstance(space, gymnasium.spaces.Box) and len(space.shape) == 2


@contextlib.contextmanager
def _refusals_as_config_errors(config: EnvConfig) -> Iterator[None]:
    """Turns what EnvPool raises on making an environment into `ConfigError`, and silences Gymnasium's warnings.

    EnvPool raises `ImportError` for a missing system library, with a hint, and the others for options that it refuses.
    """
    with _warnings_lock, warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning)
        try:
            yield
        except (ImportError, RuntimeError, TypeError, ValueError) as error:
            options = f" with env.options={dict(config.options)}" if config.options else ""
            reason = str(error).partition("\n")[0]
            raise ConfigError(f"EnvPool cannot make env.id={config.id!r}{options}: {reason}") from error
