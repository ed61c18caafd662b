"""Measures what uniformly random play returns: the lower end of a suite's scale.

python docs/measure_random.py envpool 20 CheetahRun-v1 WalkerWalk-v1
python docs/measure_random.py gymnax 1000 Breakout-MinAtar

prints the mean return of the first episodes of each environment, played by the environment's own protocol, and its
standard error. Every environment of the pool plays the same number of episodes, so that short ones do not count more.
"""

import contextlib
import dataclasses
import math
from pathlib import Path
import sys

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from podrl.config.config import EnvConfig
from podrl.config.config_dict import default_env
from podrl.envs.action_masks import random_actions
from podrl.envs.opening import make_pool
from podrl.envs.source import evaluation_protocol, load_source
from podrl.experience.episodes import EpisodeTracker
from podrl.types import Array, Timestep

NUM_ENVS = 10


def timestep_facts(timestep: Timestep) -> tuple[Array, Array, Array]:
    """What episodes are counted by."""
    return timestep.reward, timestep.discount, timestep.first


def random_returns(source_name: str, env_id: str, episodes: int, seed: int = 1) -> np.ndarray:
    """Returns of the first `episodes` // NUM_ENVS episodes of each environment."""
    source, rng = load_source(source_name), np.random.default_rng(seed)
    keys = ("direction", "image") if env_id.startswith("MiniGrid") else ()
    config = EnvConfig(**{**default_env(), "id": env_id, "source": source_name, "observation_keys": keys})
    if keys:
        config = dataclasses.replace(config, uint8="numbers")
    env = evaluation_protocol(source, config).env
    actions, wanted = source.make_spec(env).actions, max(episodes // NUM_ENVS, 1)
    found: list[list[float]] = [[] for _ in range(NUM_ENVS)]
    trackers = [EpisodeTracker(1) for _ in range(NUM_ENVS)]
    opened = make_pool(source, env, seeds=list(range(NUM_ENVS)), env_numbers=list(range(NUM_ENVS)), num_threads=1)
    with contextlib.closing(opened) as pool:
        timestep = pool.reset()
        while min(map(len, found)) < wanted:
            for index, tracker in enumerate(trackers):
                reward, discount, first = (np.asarray(x)[index : index + 1] for x in timestep_facts(timestep))
                found[index] += [episode.total for episode in tracker.step(reward, discount, first)]
            pool.send(random_actions(actions, rng, timestep))
            timestep = pool.recv()
    return np.array([total for returns in found for total in returns[:wanted]])


if __name__ == "__main__":
    for each in sys.argv[3:]:
        totals = random_returns(sys.argv[1], each, int(sys.argv[2]))
        error = totals.std(ddof=1) / math.sqrt(len(totals))
        sys.stdout.write(f"{each}: {totals.mean():.4f} +- {error:.4f} ({len(totals)} episodes)\n")
        sys.stdout.flush()
