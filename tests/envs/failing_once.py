"""EnvPool whose step raises once, as soon as there is the file that the environment variable FAILING_ONCE names."""

from collections.abc import Sequence
import contextlib
import os

from podrl.config.config import EnvConfig
from podrl.envs.source import Pool, Source
from podrl.envs.sources import envpool
from podrl.types import Timestep


def make_pool(config: EnvConfig, *, seeds: Sequence[int], num_threads: int) -> Pool:
    return FailingPool(envpool.make_pool(config, seeds=seeds, num_threads=num_threads))


class FailingPool:
    def __init__(self, pool: Pool):
        self._pool = pool
        self.reset, self.send, self.close = pool.reset, pool.send, pool.close

    def recv(self) -> Timestep:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.environ["FAILING_ONCE"])  # By one process only.
            raise RuntimeError("this fails once")
        return self._pool.recv()


SOURCE = Source(make_spec=envpool.make_spec, make_pool=make_pool)
