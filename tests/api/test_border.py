"""Masks in `info`, as an agent gets them from one environment and from a vector environment."""

import gymnasium
import jax
import numpy as np
import pytest

from podrl.actions import DiscreteActions
from podrl.api.border import add_mask, allow_all_where_none_is, gymnasium_border
from podrl.config.config import EnvConfig
from podrl.envs.sources.gymnasium import make_spec
from podrl.types import ACTION_MASK, EnvSpec
from tests.envs.test_action_masks import Telling

CONFIG = EnvConfig(source="gymnasium", id="tests.envs.test_action_masks:Telling", action_mask="info:legal")
SPEC = make_spec(CONFIG)


def border_of(env):
    return gymnasium_border(env.observation_space, env.action_space, CONFIG, SPEC)


def test_one_environment_tells_its_mask():
    env = Telling()
    border = border_of(env)
    assert border.mask_name == "legal"
    observation, info = env.reset(seed=1)
    encoded = border.encode(border.stack(add_mask(observation, info, "legal", SPEC, None)))
    np.testing.assert_array_equal(encoded[ACTION_MASK], [[True, False, True]])
    with pytest.raises(
        ValueError, match=r"info\['legal'\] must have an action mask of 3 .* found no such entry.*info=\.\.\."
    ):
        add_mask(observation, {}, "legal", SPEC, None)


@pytest.mark.parametrize("opens", [None, np.array([False, False])])
def test_a_mask_that_is_never_told_is_not_taken_for_one_that_allows_all(opens):
    with pytest.raises(ValueError, match=r"act\(\.\.\., info=\.\.\.\) is missing.*env\.action_mask=info:legal"):
        add_mask(np.zeros(3), None, "legal", SPEC, opens)


def test_environments_whose_episode_has_ended_may_tell_none():
    envs = gymnasium.vector.SyncVectorEnv([Telling, Telling])
    border = border_of(Telling())
    observation, info = envs.reset(seed=1)

    def masks(opens):
        added = add_mask(observation, info, "legal", SPEC, np.array(opens))
        return border.encode(added)[ACTION_MASK].astype(int).tolist()

    assert masks([True, True]) == [[1, 0, 1]] * 2
    observation, _, _, _, info = envs.step(np.array([0, 2]))
    assert masks([False, False]) == [[0, 1, 0]] * 2
    observation, _, ended, _, info = envs.step(np.array([1, 1]))
    assert ended.all()
    assert masks([False, False]) == [[1, 1, 1]] * 2
    with pytest.raises(ValueError, match="for each environment"):
        masks([False, True])
    observation, _, _, _, info = envs.step(np.array([1, 1]))
    assert masks([True, True]) == [[1, 0, 1]] * 2


@pytest.mark.parametrize("library", [np, jax.numpy])
def test_where_a_choice_has_no_option_all_are_allowed(library):
    spec = EnvSpec(id="x", observation={}, actions=DiscreteActions(2))
    seen = {ACTION_MASK: library.array([[False, True], [False, False]])}
    allowed = allow_all_where_none_is(seen, spec)[ACTION_MASK]
    np.testing.assert_array_equal(allowed, [[False, True], [True, True]])
