"""A Gymnasium environment that changes the current folder, as ones that load assets do."""

import os
import tempfile
from typing import Any

import gymnasium
import numpy as np


class Wanderer(gymnasium.Env[np.ndarray, Any]):
    """Episodes of five steps with a reward of one each."""

    observation_space = gymnasium.spaces.Box(0.0, 1.0, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self) -> None:
        os.chdir(tempfile.gettempdir())

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.steps += 1
        return np.zeros(2, np.float32), 1.0, self.steps == 5, False, {}
