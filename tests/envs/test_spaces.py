"""podrl's actions in the numbers of Gymnasium's spaces."""

import gymnasium
import numpy as np
import pytest

from podrl.actions import ContinuousActions, DiscreteActions, HybridActions, MultiDiscreteActions
from podrl.config.config import ConfigError
from podrl.envs.spaces import make_action_encoding

INFINITE = np.array([-np.inf, 0.0], np.float32), np.array([np.inf, np.finfo(np.float32).max], np.float32)


@pytest.mark.parametrize(
    ("space", "actions", "given", "decoded"),
    [
        (gymnasium.spaces.Discrete(3), DiscreteActions(3), [0, 2], [0, 2]),
        (gymnasium.spaces.Discrete(3, start=-1), DiscreteActions(3), [0, 2], [-1, 1]),
        (gymnasium.spaces.MultiDiscrete([2, 4]), MultiDiscreteActions((2, 4)), [[1, 3]], [[1, 3]]),
        (gymnasium.spaces.MultiDiscrete([2, 4], start=[5, 0]), MultiDiscreteActions((2, 4)), [[1, 3]], [[6, 3]]),
        (gymnasium.spaces.MultiBinary(3), MultiDiscreteActions((2, 2, 2)), [[1, 0, 1]], [[1, 0, 1]]),
        (
            gymnasium.spaces.Box(np.array([[0, -1]]), np.array([[3, 1]]), dtype=np.int32),
            MultiDiscreteActions((4, 3)),
            [[3, 0], [0, 2]],
            [[[3, -1]], [[0, 1]]],
        ),
        (
            gymnasium.spaces.Box(np.array([0.0, -2.0]), np.array([1.0, 4.0]), dtype=np.float64),
            ContinuousActions(2),
            [[-1, 1], [0, 0], [-9, 9], [0.5, -0.5]],
            [[0, 4], [0.5, 1], [0, 4], [0.75, -0.5]],
        ),
        (gymnasium.spaces.Box(-1, 1, (2, 1)), ContinuousActions(2), [[1e-9, -3]], [[[1e-9], [-1]]]),
        (gymnasium.spaces.Box(*INFINITE), ContinuousActions(2), [[-30, 50]], [[-30, 50]]),
        (gymnasium.spaces.Box(-1e10, 1e10, (1,)), ContinuousActions(1), [[-30]], [[-30]]),
        (gymnasium.spaces.Box(0, np.inf, (1,)), ContinuousActions(1), [[-30], [30]], [[0], [30]]),
    ],
    ids=str,
)
def test_actions_in_the_spaces_own_numbers(space, actions, given, decoded):
    encoding = make_action_encoding(space, "Test-v0")
    assert encoding.actions == actions
    found = encoding.decode(np.array(given, actions.struct.dtype))
    np.testing.assert_allclose(found, decoded, rtol=1e-6)
    assert all(space.contains(row) for row in found.astype(space.dtype))
    assert isinstance(space, gymnasium.spaces.Discrete) or found.dtype == space.dtype


@pytest.mark.parametrize(
    "space",
    [
        gymnasium.spaces.Dict(),
        gymnasium.spaces.Dict(a=gymnasium.spaces.Text(3)),
        gymnasium.spaces.Box(0, 2**31 - 2, (2,), np.int32),
        gymnasium.spaces.Box(np.iinfo(np.int64).min, np.iinfo(np.int64).max, (1,), np.int64),
        gymnasium.spaces.Box(-1, 1, (0,)),
    ],
    ids=str,
)
def test_other_spaces_are_refused_by_name(space):
    with pytest.raises(ConfigError, match=r"env.id='Test-v0' has actions .*; podrl gives a number"):
        make_action_encoding(space, "Test-v0")


def test_dictionaries_and_tuples_are_choices_and_then_floats():
    """Each entry gets its own share, in its own numbers."""
    space = gymnasium.spaces.Dict(
        aim=gymnasium.spaces.Box(0, 10, (2,)),
        move=gymnasium.spaces.Discrete(3, start=1),
        rest=gymnasium.spaces.Tuple((gymnasium.spaces.MultiBinary(2), gymnasium.spaces.Box(-1, 1, ()))),
    )
    encoding = make_action_encoding(space, "Test-v0")
    assert encoding.actions == HybridActions((3, 2, 2), 3)
    (decoded,) = encoding.decode(np.array([[2, 1, 0, 1, -1, 0.5]], np.float32))
    assert space.contains(decoded)
    np.testing.assert_allclose(decoded["aim"], [10, 0])
    assert decoded["move"] == 3
    np.testing.assert_array_equal(decoded["rest"][0], [1, 0])
    np.testing.assert_allclose(decoded["rest"][1], 0.5)


def test_a_dictionary_of_floats_alone_is_continuous():
    space = gymnasium.spaces.Dict(a=gymnasium.spaces.Box(-1, 1, (2,)), b=gymnasium.spaces.Box(0, 1, (1,)))
    assert make_action_encoding(space, "Test-v0").actions == ContinuousActions(3)
