"""A `gymnasium.Env` such as users bring, with faults to order, and things that are none."""

import os
import time
from typing import Any

import gymnasium
from gymnasium import spaces
import numpy as np


class ShapedReward(gymnasium.RewardWrapper):
    """Pays 10 more for each step."""

    def reward(self, reward: float) -> float:
        return reward + 10


class Corridor(gymnasium.Env):
    """Walk to the right end: action 1 goes right, 0 left; 1 at the end, -0.1 for each step before.

    Faults come in the step of that number (from 1) of an environment whose first position is `only_at`, or of all.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 7}  # noqa: RUF012 (Gymnasium's own form)

    def __init__(
        self,
        length: int = 5,
        *,
        raise_at: int = 0,
        hang_at: int = 0,
        exit_at: int = 0,
        only_at: int = -1,
        render_mode: str | None = None,
    ):
        if length < 2:
            raise ValueError(f"length={length} must be at least 2")
        self.observation_space = spaces.Dict(
            position=spaces.Discrete(length), noise=spaces.Box(-1, 1, (2,), np.float32)
        )
        self.action_space = spaces.Discrete(2)
        self.render_mode = render_mode
        self._length = length
        self._faults = {"raise": raise_at, "hang": hang_at, "exit": exit_at}
        self._only_at = only_at

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._position = self._start = int(self.np_random.integers(self._length - 1))
        self._steps = 0
        return self._observation(), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._steps += 1
        self._break()
        self._position = max(self._position + (1 if action == 1 else -1), 0)
        done = self._position == self._length - 1
        return self._observation(), 1.0 if done else -0.1, done, False, {}

    def render(self) -> np.ndarray:
        picture = np.zeros((4, self._length, 3), np.uint8)
        picture[:, self._position] = 255
        return picture

    def _observation(self) -> dict[str, Any]:
        # float64, where the space has float32: as many environments do.
        return {"position": self._position, "noise": self.np_random.uniform(-1, 1, 2)}

    def _break(self) -> None:
        if self._only_at not in (-1, self._start):
            return
        if self._steps == self._faults["raise"]:
            raise KeyError("corridor has collapsed")
        if self._steps == self._faults["hang"]:
            time.sleep(3600)
        if self._steps == self._faults["exit"]:
            os._exit(3)


def long_corridor(length: int = 9) -> gymnasium.Env:
    return gymnasium.wrappers.TimeLimit(Corridor(length), 4)


def nothing() -> None:
    return None


class OldInterface(Corridor):
    def step(self, action):
        observation, reward, terminated, _, info = super().step(action)
        return observation, reward, terminated, info


class OldReset(Corridor):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)[0]


class SeedlessReset(Corridor):
    def reset(self):
        return super().reset()


class WrongShape(Corridor):
    def reset(self, *, seed=None, options=None):
        observation, info = super().reset(seed=seed)
        return observation | {"noise": np.zeros(3)}, info


class WrongReward(Corridor):
    def step(self, action):
        observation, _, *rest = super().step(action)
        return (observation, np.zeros(2), *rest)


class WrongEnd(Corridor):
    def step(self, action):
        observation, reward, _, _, info = super().step(action)
        return observation, reward, None, False, info


class Spaceless(gymnasium.Env):
    pass


class NoEnv:
    pass


not_callable = 3

gymnasium.register(id="tests/Corridor-v0", entry_point=Corridor, max_episode_steps=6)
