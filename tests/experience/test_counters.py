"""One stream of episodes through everything that counts episodes, and through Gymnasium's counter."""

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from podrl.config.config import EnvConfig
from podrl.envs.sources.gymnasium import make_pool
from podrl.evaluation.episodes import Tally
from podrl.experience.episodes import EpisodeTracker
from podrl.experience.in_graph_unroll import EnvironmentsState, _count_episodes
from tests.envs.stream import Stream

SEEDS, STEPS = (3, 4, 5), 400


def gymnasiums_episodes(seed):
    """(return, length) of each episode whose end shows within STEPS steps, resets among them."""
    env = gymnasium.wrappers.RecordEpisodeStatistics(Stream())
    env.reset(seed=seed)
    episodes, over = [], False
    for _ in range(STEPS):
        if over:
            env.reset()
            over = False
            continue
        *_, terminated, truncated, extras = env.step(0)
        over = terminated or truncated
        if over:
            episodes.append((float(extras["episode"]["r"]), int(extras["episode"]["l"])))
    return episodes[:-1] if over else episodes  # That of the last step need not be known yet.


def timesteps():
    config = EnvConfig(source="gymnasium", id="tests.envs.stream:Stream", options={})
    pool = make_pool(config, seeds=list(SEEDS), num_threads=1)
    yield pool.reset()
    for _ in range(STEPS):
        pool.send(np.zeros(len(SEEDS), np.int32))
        yield pool.recv()
    pool.close()


def test_every_counter_counts_the_same_episodes_as_gymnasium():
    expected = [gymnasiums_episodes(seed) for seed in SEEDS]
    assert min(map(len, expected)) > 60
    num, wanted = len(SEEDS), min(map(len, expected))
    tracker, tally = EpisodeTracker(num), Tally(num, wanted)
    tracked, in_graph, count = [], [[] for _ in SEEDS], jax.jit(_count_episodes)
    zeros = jnp.zeros(num)
    state = EnvironmentsState(environment=(), timestep=None, carry=(), returns=zeros, lengths=jnp.zeros(num, jnp.int32))
    for index, timestep in enumerate(timesteps()):
        tracked += tracker.step(timestep.reward, timestep.discount, timestep.first)
        tally.add(timestep)
        if index:  # Its state is that behind the first timestep.
            state, ended = count(state.replace(timestep=timestep))
            for env in np.flatnonzero(ended.lengths):
                in_graph[env].append((float(ended.returns[env]), int(ended.lengths[env])))

    known = [ours[: len(theirs)] for ours, theirs in zip(in_graph, expected, strict=True)]
    assert known == expected
    assert sorted(episode[:2] for episode in tracked) == sorted(episode for env in in_graph for episode in env)
    episodes = tally.episodes()
    assert [*zip(episodes.returns.tolist(), episodes.lengths.tolist(), strict=True)] == [
        episode for env in expected for episode in env[:wanted]
    ]
