"""Reads Gymnasium's spaces from the JSON in which Minari keeps them."""

from collections.abc import Mapping
from typing import Any

import gymnasium
from gymnasium import spaces
import numpy as np


def read_space(described: Mapping[str, Any]) -> gymnasium.Space:
    """Returns the space.

    Raises:
        KeyError: If something is missing, or the space is of another type.
    """
    return _READERS[described["type"]](described)


def _read_box(described: Mapping[str, Any]) -> spaces.Box:
    dtype = np.dtype(described["dtype"])
    shape = tuple(described["shape"])
    low, high = (np.asarray(described[end], np.float64).reshape(shape).astype(dtype) for end in ("low", "high"))
    return spaces.Box(low=low, high=high, shape=shape, dtype=dtype.type)


_READERS = {
    "Box": _read_box,
    "Discrete": lambda x: spaces.Discrete(x["n"], start=x.get("start", 0)),
    "MultiBinary": lambda x: spaces.MultiBinary(x["n"]),
    "MultiDiscrete": lambda x: spaces.MultiDiscrete(x["nvec"]),
    "Dict": lambda x: spaces.Dict({name: read_space(each) for name, each in x["subspaces"].items()}),
    "Tuple": lambda x: spaces.Tuple([read_space(each) for each in x["subspaces"]]),
}
