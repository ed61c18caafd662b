"""A bright square is left or right of the middle; +1 for saying where, four times an episode. Beside the image comes a
switch, which may turn the meaning of the answer around."""

from typing import Any

import gymnasium
from gymnasium import spaces
import numpy as np

_SIZE, _LENGTH = 12, 4


class Sides(gymnasium.Env):
    """Answers are 0 for left and 1 for right; with `turned` the other way around wherever the switch is on."""

    def __init__(self, turned: bool = False):
        self.turned = turned
        self.observation_space = spaces.Dict(
            image=spaces.Box(0, 255, (_SIZE, _SIZE, 1), np.uint8), switch=spaces.Discrete(2)
        )
        self.action_space: gymnasium.Space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.steps = 0
        return self._draw(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        reward = self._reward(action)
        self.steps += 1
        return self._draw(), reward, self.steps == _LENGTH, False, {}

    def _draw(self) -> dict[str, Any]:
        image = self.np_random.integers(0, 100, (_SIZE, _SIZE, 1)).astype(np.uint8)
        side, switch = self.np_random.integers(2, size=2)
        row, column = self.np_random.integers(_SIZE - 3), self.np_random.integers(_SIZE // 2 - 3) + side * _SIZE // 2
        image[row : row + 3, column : column + 3] = 255
        self.answer = int(side ^ switch if self.turned else side)
        return {"image": image, "switch": int(switch)}

    def _reward(self, action: Any) -> float:
        return float(action == self.answer)


class Aim(Sides):
    """The answer is half of an action; the other half is a number that should be 0.5 if the switch is on, else -0.5."""

    def __init__(self):
        super().__init__()
        self.action_space = spaces.Dict(side=spaces.Discrete(2), aim=spaces.Box(-1, 1, (1,)))

    def _draw(self) -> dict[str, Any]:
        drawn = super()._draw()
        self.target = drawn["switch"] - 0.5
        return drawn

    def _reward(self, action: Any) -> float:
        return float(action["side"] == self.answer) * max(0.0, 1 - abs(float(action["aim"][0]) - self.target))


class Limited(Aim):
    """As `Aim`, with a third answer that is never allowed, and that would earn more than all others.

    Answers count from `start`, and numbers are `middle`, give or take `reach`.
    """

    def __init__(self, start: int = 0, middle: float = 0.0, reach: float = 1.0):
        super().__init__()
        self.start, self.middle, self.reach = start, middle, reach
        aim = spaces.Box(middle - reach, middle + reach, (1,))
        self.action_space = spaces.Dict(side=spaces.Discrete(3, start=start), aim=aim)
        mask = {"action_mask": spaces.MultiBinary(3)}
        self.observation_space = spaces.Dict({**self.observation_space.spaces, **mask})

    def _draw(self) -> dict[str, Any]:
        return {**super()._draw(), "action_mask": np.array([1, 1, 0], np.int8)}

    def _reward(self, action: Any) -> float:
        side, aim = action["side"] - self.start, (action["aim"] - self.middle) / self.reach
        return 100.0 if side == 2 else super()._reward({"side": side, "aim": aim})
