"""A Gymnasium environment of frames, and data sets of noise in its form: few steps, many bytes."""

from pathlib import Path
from typing import Any

import gymnasium
import jax
import numpy as np

from podrl.actions import DiscreteActions
from podrl.types import EnvSpec
from tests.data.episodes import make_episode, write_episodes

ID = "tests.data.frames:Frames"
FRAMES = EnvSpec(id=ID, observation=jax.ShapeDtypeStruct((84, 84, 1), np.uint8), actions=DiscreteActions(6))
FRAME_BYTES = 84 * 84


class Frames(gymnasium.Env[np.ndarray, Any]):
    """Episodes of five black frames with a reward of one each."""

    observation_space = gymnasium.spaces.Box(0, 255, (84, 84, 1), np.uint8)
    action_space = gymnasium.spaces.Discrete(6)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros((84, 84, 1), np.uint8), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.steps += 1
        return np.zeros((84, 84, 1), np.uint8), 1.0, self.steps == 5, False, {}


def write_frames(folder: Path, *, episodes: int, length: int) -> Path:
    """Writes episodes of this many steps; every frame is one of its own."""
    return write_episodes(folder, (make_episode(number, length, FRAMES) for number in range(episodes)), FRAMES)
