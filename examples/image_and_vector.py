"""An environment that shows an image beside a vector; docs/results.md has what is learned of it.

    --config.env.source=gymnasium --config.env.id=image_and_vector:Marked

A square marks the left or the right half of the image. The vector decides what that means: `[1, 0]` asks for the marked
side, `[0, 1]` for the other one. Without either of both the answer is a guess.
"""

from typing import Any

import gymnasium
from gymnasium import spaces
import numpy as np


class Marked(gymnasium.Env):
    """Asks four times an episode; a right answer, 0 for left and 1 for right, earns 1.

    Its observations are dictionaries of an image [size, size, 1], noise with the mark on it, and a vector [2].
    """

    def __init__(self, size: int = 48, mark: int = 8, questions: int = 4):
        """Makes images of `size` by `size` pixels with a square of `mark` pixels."""
        self._size, self._mark, self._questions = size, mark, questions
        self.observation_space = spaces.Dict(
            image=spaces.Box(0, 255, (size, size, 1), np.uint8), asked=spaces.Box(0, 1, (2,), np.float32)
        )
        self.action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[dict[str, np.ndarray], dict]:
        """Opens an episode with its first question."""
        super().reset(seed=seed)
        self._asked = 0
        return self._ask(), {}

    def step(self, action: Any) -> tuple[dict[str, np.ndarray], float, bool, bool, dict]:
        """Rates an answer and asks the next question."""
        reward = float(action == self._answer)
        self._asked += 1
        return self._ask(), reward, self._asked == self._questions, False, {}

    def _ask(self) -> dict[str, np.ndarray]:
        side, other = self.np_random.integers(2, size=2)
        self._answer = int(side != other)  # The marked side, or the other one.
        half, mark = self._size // 2, self._mark
        row = self.np_random.integers(self._size - mark + 1)
        column = self.np_random.integers(half - mark + 1) + side * half
        image = self.np_random.integers(100, size=(self._size, self._size, 1), dtype=np.uint8)
        image[row : row + mark, column : column + mark] = 255
        return {"image": image, "asked": np.eye(2, dtype=np.float32)[other]}
