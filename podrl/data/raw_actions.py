"""From Gymnasium's actions to podrl's: what `podrl.envs.spaces` decodes, encoded."""

from collections.abc import Mapping
from typing import Any

import gymnasium
from gymnasium import spaces
import numpy as np

from podrl.actions import ActionSpace, ContinuousActions, DiscreteActions, MultiDiscreteActions

_UNBOUNDED = 1e6  # As in `podrl.envs.spaces`.


def encode_actions(space: gymnasium.Space, actions: ActionSpace, raw: Any) -> np.ndarray:
    """Returns N actions in podrl's form, [N, ...] of `actions`.

    Args:
        space: The space of one action.
        actions: podrl's actions for this space, see `podrl.envs.spaces.make_action_encoding`.
        raw: N actions of the space, [N, *shape]; nested like the space, by key or position.
    """
    choices, floats = _parts(space, raw)
    if isinstance(actions, ContinuousActions):
        return floats
    if isinstance(actions, DiscreteActions):
        return choices[:, 0]
    if isinstance(actions, MultiDiscreteActions):
        return choices
    return np.concatenate([choices.astype(np.float32), floats], axis=1)


def _parts(space: gymnasium.Space, raw: Any) -> tuple[np.ndarray, np.ndarray]:
    """Returns all choices [N, D] int32 from 0, and all floats [N, size] float32 in [-1, 1] of their ranges."""
    if isinstance(space, spaces.Dict | spaces.Tuple):
        named: Mapping[Any, gymnasium.Space] = dict(
            sorted(space.spaces.items()) if isinstance(space, spaces.Dict) else enumerate(space.spaces)
        )
        found = [_parts(entry, raw[key]) for key, entry in named.items()]
        choices, floats = (np.concatenate(parts, axis=1) for parts in zip(*found, strict=True))
        return choices, floats
    flat = np.asarray(raw).reshape(len(raw), -1)
    nothing = np.zeros((len(raw), 0))
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
        low, high = space.low.ravel().astype(np.float64), space.high.ravel().astype(np.float64)
        bounded = (np.abs(low) < _UNBOUNDED) & (np.abs(high) < _UNBOUNDED)
        low, high = np.where(bounded, low, -1.0), np.where(bounded, high, 1.0)
        half = (high - low) / 2
        scaled = (flat - (low + high) / 2) / np.where(half > 0, half, 1)
        return nothing.astype(np.int32), scaled.astype(np.float32)
    least = getattr(space, "start", getattr(space, "low", np.zeros(flat.shape[1], np.int64)))
    return (flat.astype(np.int64) - np.ravel(least).astype(np.int64)).astype(np.int32), nothing.astype(np.float32)
