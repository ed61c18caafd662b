"""Games of ALE's own vector environment, stepped by C++ threads, with the calls of an EnvPool.

Facts about `ale_py.AtariVectorEnv`, checked on 0.12.1:

- It resets on the next step, which is podrl's rule. With `batch_size == num_envs` rows keep their order. Calls release
  Python's lock while they wait, and return new arrays.
- Its time limit counts frames from the first observation on, and stops before it has read the last frame: the final
  observation of a truncated episode is then partly that of the step before. podrl bootstraps from it, so the limit is
  kept here instead, where such an episode ends with a whole step.
- A game that is over within a step keeps the screens that it had read before, as Gymnasium's preprocessing does.
- A game opens with the fire button, if its own set of actions has it and `use_fire_reset` is set, and then up to
  `noop_max - 1` frames without an action, less the one that fired.
- `episodic_life` begins a new game after each lost life, and not only a new episode.
- An action that a game does not have ends its thread's work without an answer, and `recv` would wait for ever.
- The seed of a row is that of its emulator (sticky actions) and of its openings.

Source: Bellemare et al. 2013, arXiv:1207.4708; https://ale.farama.org/vector-environment.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import ale_py
from ale_py import roms
import gymnasium
import numpy as np

_NO_LIMIT = 2**30  # Frames; C++ adds one to it.
_NOOP = 0


class AleGames:
    """Games of one kind, each with a seed of its own, in lock-step.

    Attributes:
        num_envs: number of games, B.
        observation_space: space of one game's observation, [H, W, C] of uint8.
        action_space: space of one game's action.
    """

    def __init__(
        self,
        game: str,
        seeds: Sequence[int],
        *,
        num_threads: int,
        max_episode_steps: int,
        preprocessing: Mapping[str, Any],
        with_pictures: bool = False,
    ):
        """Opens the games' cartridges.

        Args:
            game: name of the cartridge, such as `ms_pacman`.
            seeds: [B] in [0, 2**31).
            num_threads: C++ threads.
            max_episode_steps: actions after which an episode is truncated.
            preprocessing: arguments of `AtariVectorEnv`.
            with_pictures: whether `render` works. Each game is then emulated twice, with the same seed and the same
                actions, once for the agent and once for the screen.
        """

        def make(**other: Any) -> ale_py.AtariVectorEnv:
            return ale_py.AtariVectorEnv(
                game,
                len(seeds),
                num_threads=num_threads,
                max_num_frames_per_episode=_NO_LIMIT,
                stack_num=1,
                reward_clipping=False,
                **{**preprocessing, **other},
            )

        self._envs = [make()]
        if with_pictures:
            height, width = _screen_size(game)
            self._envs.append(make(img_height=height, img_width=width, grayscale=False))
        self._seeds = np.array(seeds)
        self._max_episode_steps = max_episode_steps
        self._steps = np.zeros(len(seeds), np.int64)  # Of each episode.
        self._cut = np.zeros(len(seeds), bool)  # Episodes that the time limit has ended, of which ALE knows nothing.
        self._ended = np.zeros(len(seeds), bool)
        self._screens: Any = None
        self.num_envs = len(seeds)
        self.action_space = cast(gymnasium.spaces.Discrete, self._envs[0].single_action_space)
        _, height, width, *colours = cast(gymnasium.spaces.Box, self._envs[0].single_observation_space).shape
        self._shape = (height, width, *(colours or [1]))
        self.observation_space = gymnasium.spaces.Box(0, 255, self._shape, np.uint8)

    def reset(self) -> tuple[np.ndarray, Mapping[str, Any]]:
        """Starts all games with their seeds; returns the first observations [B, H, W, C] and ALE's other values."""
        self._steps[:], self._cut[:], self._ended[:] = 0, False, False
        opened: list[Any] = [env.reset(seed=self._seeds) for env in self._envs]
        return self._observed([observation for observation, _ in opened]), opened[0][1]

    def send(self, action: np.ndarray) -> None:
        """Starts one step; `action` [B] is ignored where the episode has ended.

        Raises:
            ValueError: if an action is none of the game's.
        """
        action = np.where(self._ended, _NOOP, action).astype(np.int32)
        if action.min() < 0 or action.max() >= self.action_space.n:
            raise ValueError(
                f"Found actions from {action.min()} to {action.max()}; expected [0, {self.action_space.n})"
            )
        for env in self._envs:
            env.send(action)

    def recv(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, Mapping[str, Any]]:
        """Waits for the step that `send` started.

        Returns:
            Observations [B, H, W, C], rewards, terminated and truncated [B] and ALE's other values. What a row that
            began an episode says of its reward has no meaning.
        """
        steps = [env.recv() for env in self._envs]
        observations = [step[0] for step in steps]
        _, reward, terminated, _, extras = steps[0]
        if self._cut.any():
            # ALE has played one more step of these, which is dropped, and starts their next games here. It returns the
            # observations of the others once more.
            observations = [env.reset(options={"reset_mask": self._cut})[0] for env in self._envs]
        terminated = terminated & ~self._ended
        self._steps = np.where(self._ended, 0, self._steps + 1)
        self._cut = (self._steps >= self._max_episode_steps) & ~terminated
        self._ended = terminated | self._cut
        return self._observed(observations), reward, terminated, self._cut, extras

    def render(self, env_ids: Sequence[int]) -> np.ndarray:
        """Returns the whole screens of some games in colour, uint8 [len(env_ids), H, W, 3]."""
        return self._screens[list(env_ids)]

    def _observed(self, observations: Sequence[np.ndarray]) -> np.ndarray:
        """Keeps the screens and returns what the agent sees."""
        if len(observations) > 1:
            self._screens = observations[1][:, 0]
        return observations[0].reshape(self.num_envs, *self._shape)


def list_games() -> dict[str, str]:
    """Returns the cartridges of ALE's games of one player by their ids, such as `MsPacman-v5`."""
    prefix = "ALE/"
    gymnasium.register_envs(ale_py)
    games = {name: spec.kwargs["game"] for name, spec in gymnasium.registry.items() if name.startswith(prefix)}
    return {name.removeprefix(prefix): game for name, game in games.items()}


def _screen_size(game: str) -> tuple[int, int]:
    """Returns the height and width of a game's screen."""
    ale = ale_py.ALEInterface()
    ale.loadROM(cast(Path, roms.get_rom_path(game)))
    height, width = ale.getScreenDims()
    return height, width
