"""Atari games of the Arcade Learning Environment, with the preprocessing of DQN.

Needs `ale-py`, which includes the ROMs, and OpenCV.
"""

import dataclasses
from typing import Any

import gymnasium

from podrl.config.config import ConfigError, check, did_you_mean
from podrl.envs.workers.wrappers import wrap

_NOOP, _FIRE = 0, 1  # Among ALE's 18 actions.
_PREFIX = "ALE/"


@dataclasses.dataclass(frozen=True, kw_only=True)
class AtariRecipe:
    """How to make a game; plain values, so that it can be sent to another process. The names are EnvPool's.

    Attributes:
        game: name such as `Pong-v5`.
        frame_skip: frames that an action is repeated for; a pixel is the brighter one of the last two.
        noop_max: largest number of frames, drawn from 1 on, that a game opens with without an action.
        use_fire_reset: whether the last of these frames fires, in games with that action.
        repeat_action_probability: probability that a frame repeats the action of the frame before.
        full_action_space: whether to use all 18 actions, or only those that make a difference in the game.
        img_height: height of an observation.
        img_width: width of an observation.
        gray_scale: whether to use one channel instead of three.
        max_episode_steps: actions after which an episode is truncated.
        mode: the game's mode; -1 is its default.
        difficulty: the game's difficulty; -1 is its default.
        wrappers: wrappers around the game as `module:Name`, the innermost first.
        training_wrappers: wrappers around those, in the same form.
        render_mode: None, or `rgb_array` for pictures.
    """

    game: str
    frame_skip: int = 4
    noop_max: int = 30
    use_fire_reset: bool = True
    repeat_action_probability: float = 0.0
    full_action_space: bool = False
    img_height: int = 84
    img_width: int = 84
    gray_scale: bool = True
    max_episode_steps: int = 27_000
    mode: int = -1
    difficulty: int = -1
    wrappers: tuple[str, ...] = ()
    training_wrappers: tuple[str, ...] = ()
    render_mode: str | None = None

    def make(self) -> gymnasium.Env:
        """Makes a new environment.

        Raises:
            ConfigError: if there is no such game, it rejects the options, or a package is missing.
        """
        try:
            import ale_py

            ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
            gymnasium.register_envs(ale_py)
            games = [env_id.removeprefix(_PREFIX) for env_id in gymnasium.registry if env_id.startswith(_PREFIX)]
            check(self.game in games, f"env.id={self.game!r} is not one of ALE's games{did_you_mean(self.game, games)}")
            env = gymnasium.make(
                _PREFIX + self.game,
                frameskip=1,
                repeat_action_probability=self.repeat_action_probability,
                full_action_space=self.full_action_space,
                mode=None if self.mode == -1 else self.mode,
                difficulty=None if self.difficulty == -1 else self.difficulty,
                max_num_frames_per_episode=0,  # `TimeLimit` below counts from the first observation on.
                render_mode=self.render_mode,
                disable_env_checker=True,
            )
            env = gymnasium.wrappers.AtariPreprocessing(
                Opening(env, noop_max=self.noop_max, use_fire_reset=self.use_fire_reset),
                noop_max=0,
                frame_skip=self.frame_skip,
                screen_size=(self.img_width, self.img_height),
                grayscale_obs=self.gray_scale,
                grayscale_newaxis=True,
            )
        except (ImportError, gymnasium.error.DependencyNotInstalled) as error:
            raise ConfigError(f"env.source='ale' needs more packages, pip install -e '.[ale]': {error}") from error
        except (gymnasium.error.Error, AssertionError, RuntimeError, ValueError) as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(f"ALE cannot make env.id={self.game!r}: {' '.join(str(error).split())}") from error
        return wrap(gymnasium.wrappers.TimeLimit(env, self.max_episode_steps), self.wrappers, self.training_wrappers)


class Opening(gymnasium.Wrapper):
    """Plays the first frames of each game without an action; the last of them fires, if the game has that action.

    A random number of frames makes games differ from the start; games such as Breakout wait for the fire button.
    """

    def __init__(self, env: gymnasium.Env, *, noop_max: int, use_fire_reset: bool):
        """Wraps the raw game, which steps one frame at a time."""
        super().__init__(env)
        self._ale: Any = env.unwrapped.ale  # type: ignore[attr-defined]
        meaningful = [action.value for action in self._ale.getMinimalActionSet()]
        self._noop_max = noop_max
        self._fires = use_fire_reset and _FIRE in meaningful

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple:
        """Starts a new game and plays its first frames.

        The buttons are pressed on ALE itself: an action of the environment is an index into the game's own set, in
        which `_NOOP` and `_FIRE` have other indices or, as in Backgammon, none.
        """
        _, extras = self.env.reset(seed=seed, options=options)
        num_noops = int(self.np_random.integers(1, self._noop_max + 1)) - self._fires
        for action in [_NOOP] * num_noops + [_FIRE] * self._fires:
            self._ale.act(action)
            if self._ale.game_over(with_truncation=False):
                _, extras = self.env.reset(options=options)
        return self._ale.getScreenRGB(), extras
