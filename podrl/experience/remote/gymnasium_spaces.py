"""Gymnasium's spaces of what podrl observes and does."""

from typing import Any

import gymnasium
from gymnasium import spaces
import numpy as np

from podrl.actions import ActionSpace, ContinuousActions, DiscreteActions, MultiDiscreteActions
from podrl.config.config import ConfigError
from podrl.types import PyTree


def observation_space(observation: PyTree) -> gymnasium.Space:
    """Returns the space of one environment's observation.

    Floats have no bounds, as podrl keeps none; integers have those of their dtype.

    Args:
        observation: `EnvSpec.observation`: a shape and dtype, or nested dictionaries or tuples of them.
    """
    if isinstance(observation, dict):
        return spaces.Dict({name: observation_space(part) for name, part in observation.items()})
    if isinstance(observation, tuple | list):
        return spaces.Tuple([observation_space(part) for part in observation])
    dtype: Any = np.dtype(observation.dtype)
    low, high = (-np.inf, np.inf) if dtype.kind == "f" else (0, 1)
    if dtype.kind in "iu":
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    return spaces.Box(low, high, observation.shape, dtype)


def action_space(actions: ActionSpace, env_id: str) -> gymnasium.Space:
    """Returns the space of one environment's action.

    Args:
        actions: `EnvSpec.actions`.
        env_id: The environment's id, for messages.

    Raises:
        ConfigError: If they are choices and floats at once, for which Gymnasium has no single array.
    """
    if isinstance(actions, DiscreteActions):
        return spaces.Discrete(actions.num)
    if isinstance(actions, MultiDiscreteActions):
        return spaces.MultiDiscrete(list(actions.nums), dtype=np.int32)
    if isinstance(actions, ContinuousActions):
        return spaces.Box(-1.0, 1.0, (actions.size,), np.float32)
    raise ConfigError(
        f"{env_id!r} takes choices and floats at once, which RemoteVectorEnv has no space for. Name a wrapper that "
        "makes one array of them in wrappers."
    )
