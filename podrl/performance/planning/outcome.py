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

    def close(self, now: float) -> None:
        """Books what is open."""
        self.switch(self._bucket, now)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SimulatedRun:
    """A simulated run, without its warm-up."""

    env_steps: int  # of the whole job
    update_s: np.ndarray  # [updates] from one update's end to the next's
    lag: Mapping[int, float]  # part of all rollouts with each lag, in updates
    actor_s: Mapping[str, float]  # in each bucket, of all actor threads together
    learner_s: Mapping[str, float]  # in each bucket, of all hosts' learners together
    actor_threads: int  # in the job
    stepping_s: float  # that pools stepped, of all pools together
    pools: int  # in the job
    host_wait_s: np.ndarray  # [hosts] per update that each host's learner waited for other hosts
    host_starved_s: np.ndarray  # [hosts] the same, for its own rollouts

    @property
    def hosts(self) -> int:
        """Hosts in the job."""
        return len(self.host_wait_s)

    @property
    def wall_s(self) -> float:
        """Simulated seconds."""
        return float(self.update_s.sum())

    @property
    def updates_per_second(self) -> float:
        """The learner's rate."""
        return len(self.update_s) / self.wall_s

    @property
    def env_steps_per_second(self) -> float:
        """The whole job's rate."""
        return self.env_steps / self.wall_s

    @property
    def actor_shares(self) -> dict[str, float]:
        """Part of the actors' time in each bucket."""
        return {bucket: seconds / (self.wall_s * self.actor_threads) for bucket, seconds in self.actor_s.items()}

    @property
    def learner_shares(self) -> dict[str, float]:
        """Part of the learners' time in each bucket."""
        return {bucket: seconds / (self.wall_s * self.hosts) for bucket, seconds in self.learner_s.items()}

    @property
    def learner_idle(self) -> float:
        """Part of the time in which a host's learner waits for its own rollouts or for other hosts."""
        return self.learner_shares["wait_rollouts"] + self.learner_shares["wait_hosts"]

    @property
    def actor_idle(self) -> float:
        """Part of the time in which an actor thread waits for parameters, or for the learner to take a rollout."""
        return self.actor_shares["wait_params"] + self.actor_shares["wait_rollouts"]

    @property
    def env_idle(self) -> float:
        """Part of the time in which a pool does not step."""
        return 1 - self.stepping_s / (self.wall_s * self.pools)

    @property
    def mean_lag(self) -> float:
        """Mean lag in updates."""
        return sum(lag * share for lag, share in self.lag.items())
