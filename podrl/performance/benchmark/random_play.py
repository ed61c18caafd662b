"""Environments alone, with random actions of those that are allowed."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from podrl.envs.action_masks import random_actions
from podrl.envs.source import Pool
from podrl.networks.parts import action_mask
from podrl.types import EnvSpec, Timestep


def make_random_play(spec: EnvSpec, num_envs: int, seed: int) -> Callable[[int, Timestep], np.ndarray]:
    """Returns (turn, timestep) -> random actions [B, ...], drawn beforehand where no mask forbids some."""
    rng = np.random.default_rng(seed)
    if action_mask(spec.observation) is not None:
        return lambda turn, timestep: random_actions(spec.actions, rng, timestep)
    actions = spec.actions.sample(rng, (1000, num_envs))
    return lambda turn, timestep: actions[turn % len(actions)]


def step_pools(
    pools: Sequence[Pool],
    newest: list[Timestep],
    act: Callable[[int, Timestep], np.ndarray],
    turns: Iterator[int],
) -> int:
    """Steps pools in turns; returns how often it did.

    Args:
        pools: The pools, which were reset.
        newest: The newest timestep of each; replaced by those after the last step.
        act: As `make_random_play` returns it.
        turns: Ends when it is time.
    """
    for pool, timestep in zip(pools, newest, strict=True):
        pool.send(act(0, timestep))
    for turn in turns:
        for pool in pools:
            pool.send(act(turn, pool.recv()))
    newest[:] = [pool.recv() for pool in pools]
    return (turn + 1) * len(pools)
