"""Rollouts are cut into the episodes that were played, however long rollouts are and wherever they begin anew."""

import jax
import numpy as np
import pytest

from podrl.data.cutting import EpisodeCutter
from podrl.types import Trajectory

NUM_ENVS = 5


class Player:
    """Plays episodes of random lengths, some truncated, and keeps what it played: a slow cutter, row by row."""

    def __init__(self, seed, num_envs=NUM_ENVS):
        self.rng, self.num_envs = np.random.default_rng(seed), num_envs
        self.played = [[] for _ in range(num_envs)]  # Episodes that ended, rows as (observation, action, ...).
        self.step = [0] * num_envs
        self.open()

    def open(self):
        """Opens all environments anew: what is in progress is lost."""
        self.current = [[] for _ in range(self.num_envs)]
        self.ends = [None] * self.num_envs  # How the episode ended, until the reset.
        self.rows = [self.reset(env) for env in range(self.num_envs)]

    def reset(self, env):
        self.current[env], self.ends[env] = [], None
        self.left = getattr(self, "left", {})
        self.left[env] = int(self.rng.integers(1, 9))
        return (self.observe(), True)

    def observe(self):
        return self.rng.normal(size=2).astype(np.float32)

    def act(self, env):
        """Takes one step of an environment; returns its row."""
        (observation, first), action = self.rows[env], self.rng.normal(size=1).astype(np.float32)
        version = int(self.rng.integers(9))
        if self.ends[env] is not None:  # The step only resets, and earns nothing.
            self.rows[env] = self.reset(env)
            return observation, first, action, 0.0, 1.0, version
        reward, self.left[env] = float(self.rng.normal()), self.left[env] - 1
        ends = self.left[env] == 0
        discount = float(not (ends and self.rng.random() < 0.5))
        self.current[env].append((observation, action, reward, discount, version))
        self.rows[env] = (self.observe(), False)
        if ends:
            self.ends[env] = discount
            self.played[env].append((self.current[env], self.rows[env][0]))
        return observation, first, action, reward, discount, version

    def rollout(self, length):
        rows = [[self.act(env) for env in range(self.num_envs)] for _ in range(length)]
        stacked = [np.stack([[row[i] for row in step] for step in rows]) for i in range(6)]
        last = [np.stack([row[i] for row in self.rows])[None] for i in range(2)]
        observation, first = (np.concatenate(pair) for pair in zip(stacked[:2], last, strict=True))
        action, reward, discount, version = stacked[2:]
        return Trajectory(
            observation={"a": observation},
            first=first,
            action=action,
            reward=reward.astype(np.float32),
            discount=discount.astype(np.float32),
            behaviour={"twice": 2 * action},
            carry=(),
            opening_reward=np.zeros(self.num_envs, np.float32),
            env_index=np.arange(self.num_envs, dtype=np.uint32) + 30,
            params_version=version.astype(np.int32),
        )


def assert_is(found, played):
    """Asserts that an episode is one that was played."""
    rows, final = played
    observations, actions, rewards, discounts, versions = (np.stack(each) for each in zip(*rows, strict=True))
    np.testing.assert_array_equal(found.observation["a"], np.concatenate([observations, final[None]]))
    np.testing.assert_array_equal(found.action, actions)
    np.testing.assert_array_equal(found.behaviour["twice"], 2 * actions)
    np.testing.assert_array_equal(found.reward, rewards.astype(np.float32))
    np.testing.assert_array_equal(found.discount, discounts)
    np.testing.assert_array_equal(found.params_version, versions)
    assert found.is_whole


@pytest.mark.parametrize("length", [1, 3, 20])
def test_every_episode_comes_out_as_it_was_played(length):
    player, cutter = Player(length), EpisodeCutter()
    cutter.reopen(lambda env: 1000 + env)
    found = [episode for _ in range(200 // length) for episode in cutter.cut(player.rollout(length))]
    for env in range(NUM_ENVS):
        own = [episode for episode in found if episode.seed == 1030 + env]
        played = player.played[env]
        assert len(own) in (len(played), len(played) - 1)  # A truncation shows in the row behind it.
        assert [episode.number for episode in own] == list(range(len(own)))
        for episode, wanted in zip(own, played, strict=False):
            assert_is(episode, wanted)
    assert len(found) > 100


@pytest.mark.parametrize("told", [True, False], ids=["told", "found"])
def test_an_episode_in_progress_is_left_out_where_environments_are_opened_anew(told):
    """Whether the cutter was told so, or sees that the rows do not follow each other."""
    player, cutter, found, whole = Player(4), EpisodeCutter(), [], []
    for _ in range(30):
        for _ in range(3):
            found += list(cutter.cut(player.rollout(4)))
        for env in range(NUM_ENVS):
            played = player.played[env]
            if played and player.ends[env] == 1.0:  # Truncated by the last step: it cannot be known.
                played = played[:-1]
            whole += played
            player.played[env] = []
        player.open()
        if told:
            cutter.reopen(lambda env: 7)
    key = lambda rows: rows[0][0][0].tobytes()  # noqa: E731 (its first observation)
    by_start = {key(played): played for played in whole}
    assert len(found) == len(by_start) > 100
    for episode in found:
        assert_is(episode, by_start[episode.observation["a"][0].tobytes()])


def test_a_terminated_episode_does_not_wait_for_its_reset():
    """A run that resumes behind this rollout never sees it."""
    rollout = Player(0, 1).rollout(1)
    ended = rollout.replace(discount=np.zeros((1, 1), np.float32))
    assert [episode.length for episode in EpisodeCutter().cut(ended)] == [1]
    assert list(EpisodeCutter().cut(rollout.replace(discount=np.ones((1, 1), np.float32)))) == []


def test_episodes_do_not_keep_their_rollouts():
    player, cutter = Player(1), EpisodeCutter()
    for episode in (episode for _ in range(9) for episode in cutter.cut(player.rollout(5))):
        for leaf in jax.tree.leaves((episode.observation, episode.reward, episode.behaviour)):
            assert leaf.base is None or leaf.base.nbytes <= leaf.nbytes + 16
