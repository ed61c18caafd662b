"""Action masks, from what an environment gives to what an agent may do."""

import dataclasses

import gymnasium
from gymnasium import spaces
import jax
import numpy as np
import pytest

from podrl.actions import DiscreteActions, MultiDiscreteActions, sample_allowed
from podrl.config.config import ConfigError, EnvConfig
from podrl.envs.action_masks import count_stuck
from podrl.envs.observations import describe_observation, make_encoding
from podrl.envs.source import load_source
from podrl.envs.sources.gymnasium import make_pool, make_spec
from podrl.envs.spaces import make_action_encoding
from podrl.envs.workers.calls import EnvFailure
from podrl.types import ACTION_MASK, VECTOR, Trajectory


class Masked(gymnasium.Env):
    """Allows what `allowed` says at each step; the last step ends the episode."""

    def __init__(self, allowed=((1, 0, 1), (0, 1, 0), (0, 0, 0)), space=None, mask=None):
        self.action_space = space or spaces.Discrete(3)
        self.allowed = [np.asarray(row, np.int8) for row in allowed]
        mask = mask or spaces.MultiBinary(self.allowed[0].shape)
        self.observation_space = spaces.Dict(board=spaces.Box(-1, 1, (2,)), action_mask=mask)

    def seen(self):
        return {"board": np.zeros(2, np.float32), "action_mask": self.allowed[self.step_number]}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.step_number = 0
        return self.seen(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        if isinstance(self.action_space, spaces.Discrete):
            assert self.allowed[self.step_number].ravel()[action]
        self.step_number += 1
        return self.seen(), 0.0, self.step_number == len(self.allowed) - 1, False, {}


class Stuck(Masked):
    """Forbids everything in the middle of an episode."""

    def __init__(self):
        super().__init__(allowed=((1, 0, 1), (0, 0, 0), (1, 1, 1)))


class Board(Masked):
    """A field [2, 3] is chosen, of which not all are free."""

    def __init__(self):
        free = np.array([[1, 0, 0], [0, 1, 1]])
        super().__init__(allowed=(free, 0 * free), space=spaces.MultiDiscrete([2, 3]))


class Odd(Masked):
    """An entry of the mask's name that is none: it fits no actions."""

    def __init__(self):
        super().__init__(allowed=((1, 0, 1, 1), (0, 0, 0, 0)))


class Separate(Masked):
    """Two choices, each with a mask of its own, as Gymnasium's `sample` takes them."""

    def __init__(self):
        mask = spaces.Tuple((spaces.MultiBinary(2), spaces.MultiBinary(3)))
        super().__init__(space=spaces.MultiDiscrete([2, 3]), mask=mask)
        self.allowed = [(np.array([0, 1], np.int8), np.array([1, 0, 1], np.int8))] * 3


class Telling(Masked):
    """Gives its mask in `info`, and none at an episode's end."""

    def __init__(self, forgets=False):
        super().__init__()
        self.observation_space, self.forgets = self.observation_space["board"], forgets

    def reset(self, *, seed=None, options=None):
        seen, _ = super().reset(seed=seed)
        return seen["board"], {} if self.forgets else {"legal": seen["action_mask"]}

    def step(self, action):
        seen, reward, terminated, truncated, _ = super().step(action)
        return seen["board"], reward, terminated, truncated, {} if terminated else {"legal": list(seen["action_mask"])}


def config_of(name, **settings):
    return EnvConfig(source="gymnasium", id=f"tests.envs.test_action_masks:{name}", **settings)


@pytest.fixture
def open_pool():
    pools = []

    def make(name, **settings):
        pools.append(make_pool(config_of(name, **settings), seeds=[1, 2], num_threads=1))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()


def step(pool, action):
    pool.send(np.asarray(action, np.int32))
    return pool.recv()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_mask_is_a_part_of_its_own(open_pool, workers):
    spec, pool = make_spec(config_of("Masked")), open_pool("Masked", workers=workers)
    assert spec.actions == DiscreteActions(3)
    assert spec.observation == {
        VECTOR: jax.ShapeDtypeStruct((2,), np.float32),
        ACTION_MASK: jax.ShapeDtypeStruct((3,), np.bool_),
    }
    assert describe_observation(spec) == "float32[2] as a vector of 2; a mask of 3 actions"

    np.testing.assert_array_equal(pool.reset().observation[ACTION_MASK], [[True, False, True]] * 2)
    np.testing.assert_array_equal(step(pool, [0, 2]).observation[ACTION_MASK], [[False, True, False]] * 2)
    last = step(pool, [1, 1])
    assert (last.discount == 0).all()
    assert last.observation[ACTION_MASK].all()  # Whatever is done here is not done: the environment is reset.


def test_a_mask_without_any_action_names_the_environment(open_pool):
    pool = open_pool("Stuck")
    pool.reset()
    with pytest.raises(EnvFailure, match=r"Environment 0 of the pool .*Stuck.* its action mask allows no action\."):
        step(pool, [0, 2])


def test_steps_without_an_action_are_counted_except_after_an_episodes_end():
    """Of three steps of four environments; the second choice of the first has nothing, and the last has ended."""
    mask = np.ones((4, 4, 5), bool)
    mask[0, 0, 2:] = mask[2, 1] = mask[1, 3] = False
    mask[3] = False  # Those of the next unroll.
    first = np.zeros((4, 4), bool)
    first[2, 3] = True
    parts = {field.name: () for field in dataclasses.fields(Trajectory)}
    seen = {VECTOR: np.zeros((4, 4, 1)), ACTION_MASK: mask}
    trajectory = Trajectory(**{**parts, "observation": seen, "first": first})
    assert int(count_stuck(trajectory, MultiDiscreteActions((2, 3)))) == 2
    unmasked = Trajectory(**{**parts, "observation": {VECTOR: seen[VECTOR]}, "first": first})
    assert count_stuck(unmasked, MultiDiscreteActions((2, 3))) == ()


def test_a_mask_of_combinations_makes_one_choice_of_several(open_pool):
    assert make_spec(config_of("Board")).actions == DiscreteActions(6)
    pool = open_pool("Board")
    np.testing.assert_array_equal(pool.reset().observation[ACTION_MASK][0], [True, False, False, False, True, True])
    assert (step(pool, [0, 5]).discount == 0).all()


def test_several_choices_each_with_its_mask(open_pool):
    assert make_spec(config_of("Separate")).actions == MultiDiscreteActions((2, 3))
    seen = open_pool("Separate").reset().observation
    np.testing.assert_array_equal(seen[ACTION_MASK], [[False, True, True, False, True]] * 2)


@pytest.mark.parametrize("settings", [{}, {"observation_keys": ("board", "action_mask")}])
def test_what_is_only_called_like_a_mask_is_observed(settings):
    """So are environments of which a podrl without masks has trained."""
    spec = make_spec(config_of("Masked" if settings else "Odd", **settings))
    assert spec.observation.shape == (5 if settings else 6,)


def test_masks_are_in_the_order_of_the_actions():
    """Whatever the order in which a dictionary was written."""
    space = spaces.Dict([("move", spaces.Discrete(3)), ("hit", spaces.Discrete(2))])
    masks = spaces.Dict([("move", spaces.MultiBinary(3)), ("hit", spaces.MultiBinary(2))])
    actions = make_action_encoding(space, "A")
    encoding = make_encoding(
        spaces.Dict(x=spaces.Box(0, 1, (1,)), action_mask=masks), EnvConfig(id="A"), actions.actions
    )
    raw = {"x": np.zeros((1, 1)), "action_mask": {"move": np.array([[0, 0, 1]]), "hit": np.array([[1, 0]])}}
    allowed = sample_allowed(actions.actions, np.random.default_rng(0), encoding.encode(raw)[ACTION_MASK])
    assert actions.decode(allowed) == [{"move": 2, "hit": 0}]


def test_none_of_it_where_a_key_says_so():
    spec = make_spec(config_of("Masked", action_mask="none"))
    assert spec.observation == jax.ShapeDtypeStruct((5,), np.float32)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"action_mask": "board"}, r"gives a mask of 2, and its actions have 3 options.*env.action_mask=none"),
        ({"action_mask": "masc"}, r"env.action_mask: the observation has no entry 'masc'.*action_mask, board"),
    ],
)
def test_what_does_not_fit_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        make_spec(config_of("Masked", **settings))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_mask_in_info_is_the_same(open_pool, workers):
    settings = {"action_mask": "info:legal"}
    assert make_spec(config_of("Telling", **settings)).observation == make_spec(config_of("Masked")).observation
    pools = [open_pool("Telling", workers=workers, **settings), open_pool("Masked")]
    for actions in (None, [0, 2], [1, 1], [0, 0]):
        found, expected = (pool.reset() if actions is None else step(pool, actions) for pool in pools)
        jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_a_mask_that_info_lacks_names_it():
    said = r"reset\(\) must give info\['legal'\] with 3 numbers, one for each option; found no such entry\."
    with pytest.raises(ConfigError, match=said):
        make_spec(config_of("Telling", action_mask="info:legal", options={"forgets": True}))
    with pytest.raises(ConfigError, match=r"masks in info are for env.source=gymnasium"):
        load_source("envpool").make_spec(EnvConfig(id="CartPole-v1", action_mask="info:legal"))


@pytest.mark.parametrize(
    ("name", "actions"),
    [
        ("Game2048-v1", DiscreteActions(4)),
        ("Minesweeper-v0", DiscreteActions(100)),
        ("Cleaner-v0", MultiDiscreteActions((4, 4, 4))),
    ],
)
def test_games_of_envpool(name, actions):
    source, config = load_source("envpool"), EnvConfig(id=name)
    spec = source.make_spec(config)
    assert spec.actions == actions
    pool = source.make_pool(config, seeds=[1, 2, 3], num_threads=1)
    timestep, rng, ends = pool.reset(), np.random.default_rng(0), 0
    for _ in range(300):
        mask = timestep.observation[ACTION_MASK]
        assert mask.shape[1:] == spec.observation[ACTION_MASK].shape
        choices = np.split(mask, np.cumsum(getattr(actions, "nums", ()))[:-1].astype(int), axis=1)
        drawn = np.stack([np.argmax(rng.random(part.shape) * part, axis=1) for part in choices], axis=1)
        pool.send(drawn.reshape(3, *actions.struct.shape).astype(np.int32))
        timestep = pool.recv()
        ends += int(timestep.first.sum())
    assert ends
