"""A client of a few lines, in numpy alone, learns over two environment workers in processes of their own."""

import contextlib

import numpy as np
import pytest

from podrl.experience.remote import RemoteVectorEnv

POPULATION, ELITE, GENERATIONS = 32, 6, 15


def play(envs, policies):
    """Returns of one episode of each environment [B] under a linear policy of its own [B, 4]."""
    observation, _ = envs.reset(seed=0)
    returns, runs = np.zeros(envs.num_envs), np.ones(envs.num_envs, bool)
    while runs.any():
        actions = (np.sum(observation * policies, axis=1) > 0).astype(int)
        observation, reward, terminated, truncated, _ = envs.step(actions)
        returns += reward * runs
        runs &= ~(terminated | truncated)
    return returns


@pytest.mark.slow
def test_the_cross_entropy_method_balances_a_pole():
    rng = np.random.default_rng(0)
    mean, deviation = np.zeros(4), np.ones(4)
    with contextlib.closing(RemoteVectorEnv("CartPole-v1", POPULATION, num_workers=2)) as envs:
        found = []
        while len(found) < GENERATIONS and (not found or found[-1] < 490):
            policies = rng.normal(mean, deviation, (POPULATION, 4))
            returns = play(envs, policies)
            best = policies[np.argsort(returns)[-ELITE:]]
            mean, deviation = best.mean(0), best.std(0) + 0.1
            found.append(play(envs, np.tile(mean, (POPULATION, 1))).mean())
    assert found[0] < 490 <= found[-1], found
