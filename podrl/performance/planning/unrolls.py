"""How long work takes: draws of it, and of whole unrolls of an actor thread that nobody is in the way of.

A thread takes turns with its pools: it waits for a pool's timestep, acts on it, and lets the pool step while it turns
to the next. At an unroll's end all pools have their timestep, so unrolls do not depend on the ones before, and each is
one recurrence over its turns:

    acting begins   b = max(end of the turn before, sent[pool] + env)
    the turn ends   sent[pool] = b + act
"""

import dataclasses
import itertools

import numpy as np

from podrl.performance.planning.system import HostLoad, HostWork

BLOCK = 64  # Values drawn at a time, for speed.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unrolls:
    """Many unrolls, all arrays of one shape.

    Attributes:
        seconds: that the thread takes, `finish` included.
        act: the part of it in which the thread acts or finishes; else it waits for a pool.
        env: seconds that its pools step, all of them added up.
        cores: that are busy meanwhile, on average.
    """

    seconds: np.ndarray
    act: np.ndarray
    env: np.ndarray
    cores: np.ndarray


def draw_unrolls(host: HostLoad, generator: np.random.Generator, shape: tuple[int, ...]) -> Unrolls:
    """Independent unrolls of one thread each."""
    now = np.zeros(shape)
    acting, stepping = np.zeros(shape), np.zeros(shape)
    ready = [now] * host.pools
    for _ in range(host.unroll_length):
        for pool in range(host.pools):
            act, env = host.act.seconds.draw(generator, shape), host.env.seconds.draw(generator, shape)
            now = np.maximum(now, ready[pool]) + act
            ready[pool] = now + env
            acting += act
            stepping += env
    finishing = np.zeros(shape)
    for pool in range(host.pools):
        finish = host.finish.seconds.draw(generator, shape)
        now = np.maximum(now, ready[pool]) + finish
        finishing += finish
    core_s = acting * host.act.cores + stepping * host.env.cores + finishing * host.finish.cores
    positive = np.where(now > 0, now, 1.0)
    return Unrolls(seconds=now, act=(acting + finishing) / positive, env=stepping, cores=core_s / positive)


class Stream:
    """Draws of one kind of work, by the block.

    Attributes:
        cores: that it keeps busy meanwhile.
    """

    def __init__(self, work: HostWork, generator: np.random.Generator):
        """Draws nothing yet."""
        self.cores = work.cores
        self._draws = itertools.chain.from_iterable(
            work.seconds.draw(generator, BLOCK).tolist() for _ in itertools.count()
        )

    def draw(self) -> float:
        """Seconds that it takes alone, this time."""
        return next(self._draws)
