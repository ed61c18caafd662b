"""A Gymnasium environment whose `info` is known in advance: for whatever collects numbers of it.

Episode e (from 0) of an instance lasts `lengths[e % len(lengths)]` steps and its step t (from 1) has reward 1. Its
`info` depends on the seed s of the instance, the episode and the step:

- `success`: a NumPy bool, at step 2 alone: not at the end of longer episodes.
- `parts`: a dictionary with `a`, t, and `b`, -t / 3.
- `last`: s % 100 + e, only at the last step; missing in every third episode.
- `odd`: t where t is odd, NaN where it is even.
- `vector`, `word`, `nothing`: an array, a text, None.
- `seen_by_reset`: 5, in `info` of `reset` alone.
"""

import gymnasium
import numpy as np


class Informed(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, lengths: tuple[int, ...] = (1, 2, 4), truncates: bool = False):
        self.lengths, self.truncates = lengths, truncates
        self.episode = -1

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.seed = seed
        self.episode, self.t = self.episode + 1, 0
        return np.zeros(1, np.float32), {"seen_by_reset": 5, "parts": {"a": 1000}}

    def step(self, action):
        self.t += 1
        over = self.t == self.lengths[self.episode % len(self.lengths)]
        told = {"last": self.seed % 100 + self.episode} if over and self.episode % 3 != 2 else {}
        parts = {"a": self.t, "b": np.float64(-self.t / 3)}
        others = {"odd": self.t if self.t % 2 else np.nan, "vector": np.ones(3), "word": "x", "nothing": None}
        known = {"success": np.bool_(self.t == 2), "parts": parts, **others, **told}
        return np.zeros(1, np.float32), 1.0, over and not self.truncates, over and self.truncates, known
