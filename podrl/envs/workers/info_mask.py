"""Action masks that an environment gives in `info`, as an entry of its observations."""

from typing import Any

import gymnasium
from gymnasium import spaces
import numpy as np

from podrl.config.config import ConfigError, check
from podrl.envs.workers.calls import WrongReturn, describe_value

FROM_INFO = "info:"  # The beginning of `env.action_mask` where the mask is in `info`.
ENTRY = "action_mask"  # The default of `env.action_mask`.


class MaskFromInfo(gymnasium.Wrapper):
    """Adds `info[name]` to the observation as the entry `action_mask`, with as many numbers as there are options."""

    def __init__(self, env: gymnasium.Env, name: str):
        """Wraps an environment.

        Raises:
            ConfigError: if its actions have no options, or its observation has an entry of that name already.
        """
        super().__init__(env)
        self._name, self._size = name, _num_options(env.action_space)
        self._is_dict = isinstance(env.observation_space, spaces.Dict)
        self.observation_space = space_with_mask(env.observation_space, env.action_space, name)

    def reset(self, **options: Any) -> Any:
        """Opens an episode."""
        observation, info = self.env.reset(**options)
        return self._with_mask(observation, info, "reset"), info

    def step(self, action: Any) -> Any:
        """Steps the environment."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        if (terminated or truncated) and self._name not in info:  # What is done after an episode's end is not done.
            info = {**info, self._name: np.ones(self._size, np.int8)}
        return self._with_mask(observation, info, "step"), reward, terminated, truncated, info

    def _with_mask(self, observation: Any, info: Any, what: str) -> dict[str, Any]:
        found = info.get(self._name)
        mask = np.asarray(found).ravel() if found is not None else None
        if mask is None or mask.size != self._size or mask.dtype.kind not in "biuf":
            raise WrongReturn(
                f"{what}() must give info[{self._name!r}] with {self._size} numbers, one for each option; found "
                f"{'no such entry' if found is None else describe_value(found)}."
            )
        entries = observation if self._is_dict else {"observation": observation}
        return {**entries, ENTRY: (mask != 0).astype(np.int8)}


def space_with_mask(observation: gymnasium.Space, action: gymnasium.Space, name: str) -> spaces.Dict:
    """Returns the observation space of an environment whose mask is `info[name]`, with the mask as an entry.

    Raises:
        ConfigError: as for `MaskFromInfo`.
    """
    entries = dict(observation.spaces) if isinstance(observation, spaces.Dict) else {"observation": observation}
    check(ENTRY not in entries, f"env.action_mask={FROM_INFO}{name}: the observation has an entry {ENTRY!r}, too.")
    return spaces.Dict({**entries, ENTRY: spaces.MultiBinary(_num_options(action))})


def _num_options(space: gymnasium.Space) -> int:
    """Returns how many options the choices of a space have."""
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    if isinstance(space, spaces.MultiDiscrete):
        return int(space.nvec.sum())
    raise ConfigError(f"env.action_mask={FROM_INFO}...: actions {space} have no mask; expected one choice or several.")
