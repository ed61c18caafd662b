"""A Gymnasium environment whose episodes differ in length, reward and end, by the seed: for whatever counts them."""

import gymnasium
import numpy as np


class Stream(gymnasium.Env):
    """Episodes of 1 to 6 steps that terminate or are truncated, or both at once; rewards are eighths."""

    observation_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._left = int(self.np_random.integers(1, 7))
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self._left -= 1
        terminated, truncated = (self._left == 0) & np.array([(True, False), (False, True), (True, True)])[
            self.np_random.integers(3)
        ]
        reward = float(self.np_random.integers(-8, 9)) / 8
        return np.zeros(1, np.float32), reward, bool(terminated), bool(truncated), {}
