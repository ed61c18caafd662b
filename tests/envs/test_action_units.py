"""What a policy's file says of actions gives the environment's own, by the function that docs/python.md shows."""

import json
import re

from gymnasium import spaces
import numpy as np
import pytest

from podrl.actions import DiscreteActions
from podrl.envs.action_units import describe_units
from podrl.envs.spaces import make_action_encoding
from tests.processes import ROOT

(SHOWN,) = re.findall(r"```python\n([^`]*def in_units.*?)```", (ROOT / "docs/python.md").read_text(), re.S)
NAMES = {"np": np}
exec(SHOWN, NAMES)
in_units = NAMES["in_units"]

BOX = spaces.Box(np.array([[0.0, -2.0], [-np.inf, 0.0]]), np.array([[4.0, 8.0], [np.inf, np.inf]]), dtype=np.float64)


def arrays_of(action, path=()):
    """The arrays of a dictionary or tuple of actions, by path."""
    if isinstance(action, dict | tuple):
        named = action.items() if isinstance(action, dict) else enumerate(action)
        return {name: array for key, entry in named for name, array in arrays_of(entry, (*path, key)).items()}
    return {path: action}


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(3, start=5),
        spaces.MultiDiscrete([2, 3], start=[4, -1]),
        spaces.MultiDiscrete([[2, 3], [3, 2]]),
        spaces.MultiBinary((2, 2)),
        spaces.Box(-3, 2, (2,), np.int16),
        spaces.Box(0, 1, (), bool),
        BOX,
        spaces.Dict(side=spaces.Discrete(3, start=5), aim=BOX, hold=spaces.MultiBinary(2), bend=spaces.Box(2, 6, (1,))),
        spaces.Tuple((BOX, spaces.Dict(b=spaces.Discrete(2), a=spaces.Tuple((spaces.Discrete(4), BOX))))),
    ],
    ids=str,
)
def test_they_are_those_that_a_pool_takes(space):
    encoding = make_action_encoding(space, "A")
    units = json.loads(json.dumps(describe_units(space, encoding.actions)))
    action = encoding.actions.sample(np.random.default_rng(0), (5,))
    decoded = encoding.decode(action)
    found = in_units(action, units)
    if not isinstance(found, dict):
        np.testing.assert_allclose(found, decoded, rtol=1e-6)
        assert found.dtype == space.dtype
        return
    expected = [arrays_of(each) for each in decoded]
    assert sorted(found, key=str) == sorted(expected[0], key=str)
    for path, array in found.items():
        np.testing.assert_allclose(array, np.stack([each[path] for each in expected]), rtol=1e-6)


def test_a_choice_of_combinations_is_taken_apart():
    space = spaces.MultiDiscrete([2, 3], start=[4, -1])
    units = describe_units(space, DiscreteActions(6))
    assert in_units(np.arange(6, dtype=np.int32), units).tolist() == [[4, -1], [4, 0], [4, 1], [5, -1], [5, 0], [5, 1]]
