"""EnvPool whose steps take a random time more, to show that timing changes nothing."""

from collections.abc import Sequence
import random
import time

import numpy as np

from podrl.config.config import EnvConfig
from podrl.envs.source import Pool, Source
from podrl.envs.sources import envpool
from podrl.types import Timestep

make_spec = envpool.make_spec


def make_pool(config: EnvConfig, *, seeds: Sequence[int], num_threads: int) -> Pool:
    return DelayedPool(envpool.make_pool(config, seeds=seeds, num_threads=num_threads))


class DelayedPool:
    def __init__(self, pool: Pool):
        self._pool = pool
        self.reset, self.close = pool.reset, pool.close

    def send(self, action: np.ndarray) -> None:
        time.sleep(random.choice((0, 0, 0.02)))
        self._pool.send(action)

    def recv(self) -> Timestep:
        time.sleep(random.choice((0, 0, 0.02)))
        return self._pool.recv()


SOURCE = Source(make_spec=envpool.make_spec, make_pool=make_pool)
