"""The facts from which the bottleneck is found: where the threads' time went, on which machine, under which config."""

from collections.abc import Mapping
import dataclasses

from podrl.config.config import Config
from podrl.experience.layout import Layout, default_env_threads

BUSY = 0.8  # Fraction of the cores' time from which more threads do not help.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Machine:
    """The cores and devices of one process.

    Attributes:
        platform: platform of its devices: `cpu`, `gpu` or `tpu`.
        cores: number of cores that it may use.
        devices: number of its devices.
        actor_devices: number of devices that act.
        learner_devices: number of devices that learn; some may act too.
    """

    platform: str
    cores: int
    devices: int
    actor_devices: int
    learner_devices: int

    @property
    def shares_devices(self) -> bool:
        """Whether some device acts and learns."""
        return self.actor_devices + self.learner_devices > self.devices


@dataclasses.dataclass(frozen=True, kw_only=True)
class Situation:
    """All that the advice depends on.

    Attributes:
        shares: fractions of a thread's time by keys as in a row of metrics, `time/learner/wait_rollouts`; the actors'
            are those of all actor threads together. Offline those of the thread that brings data are there in place of
            theirs, as `time/data/read`.
        env_steps_per_second: rate of the whole job.
        cores_busy: fraction of the time of all its cores that this process used.
        others_busy: fraction that other processes used, on this machine or, if it is virtual, on its host.
        machine: cores and devices of the process.
        layout: how environments are divided.
        config: the run's config.
    """

    shares: Mapping[str, float]
    env_steps_per_second: float
    cores_busy: float
    others_busy: float
    machine: Machine
    layout: Layout
    config: Config

    def share(self, who: str, *buckets: str) -> float:
        """Returns the fraction of the time of `learner` or `actors` in these buckets together."""
        return sum(self.shares.get(f"time/{who}/{bucket}", 0.0) for bucket in buckets)

    @property
    def learner_waits(self) -> float:
        """Fraction of its time that the learner waits for actors."""
        return self.share("learner", "wait_rollouts")

    @property
    def actors_wait(self) -> float:
        """Fraction of their time that actors wait for the learner."""
        return self.share("actors", "wait_params", "wait_rollouts")

    @property
    def on_cpu(self) -> bool:
        """Whether the devices are the host's own cores."""
        return self.machine.platform == "cpu"

    @property
    def has_idle_cores(self) -> bool:
        """Whether cores are free for more threads."""
        return self.cores_busy + self.others_busy < BUSY

    @property
    def act_call_s(self) -> float:
        """Seconds that an actor spends on one call of `act`, for one step of one pool."""
        layout = self.layout
        steps_per_call = layout.num_processes * layout.num_actors * layout.envs_per_pool
        return self.share("actors", "act") * steps_per_call / max(self.env_steps_per_second, 1e-9)

    @property
    def env_threads(self) -> int:
        """C++ threads of each pool."""
        return self.config.actors.env_threads or default_env_threads(self.layout)
