"""What a simulated run came to: rates, lag, and where the time of every thread went."""

from collections.abc import Mapping
import dataclasses

import numpy as np

# What the learner of a host may spend its time on; actors spend theirs as in `podrl.runtime.ledger`.
ACTOR_BUCKETS = ("env", "act", "wait_params", "wait_rollouts")
LEARNER_BUCKETS = ("learn", "allreduce", "wait_hosts", "wait_rollouts")


class Account:
    """Splits the simulated time of one thread over buckets; it is always in exactly one, at first in the first."""

    def __init__(self, buckets: tuple[str, ...], now: float):
        self.seconds = dict.fromkeys(buckets, 0.0)
        self._bucket, self._since = buckets[0], now

    def switch(self, bucket: str, now: float) -> float:
        """Starts another bucket; returns the seconds that the one before has just got."""
        spent = now - self._since
        self.seconds[self._bucket] += spent
        self._bucket, self._since = bucket, now
        return spent

    def move(self, seconds: float, source: str, target: str) -> None:
        """Books on `target` what was booked on `source`."""
        self.seconds[source] -= seconds
        self.seconds[target] += seconds

    def restart(self, now: float) -> None:
        """Forgets what was, as warm-up."""
        self.seconds = dict.fromkeys(self.seconds, 0.0)
        self._since = now


@dataclasses.dataclass(frozen=True, kw_only=True)
class SimulatedRun:
    """A simulated run, without its warm-up."""

    hosts: int  # in the job
    env_steps_per_second: float  # of the whole job
    update_s: np.ndarray  # [updates] from one update's end to the next's
    lag: Mapping[int, float]  # part of all rollouts with each lag, in updates
    actors: Mapping[str, float]  # part of all actor threads' time in each bucket
    learner: Mapping[str, float]  # part of all hosts' learners' time in each bucket
    env_idle: float  # part of the time in which a pool does not step
    host_wait_s: np.ndarray  # [hosts] per update that each host's learner waited for other hosts
    host_starved_s: np.ndarray  # [hosts] the same, for its own rollouts
