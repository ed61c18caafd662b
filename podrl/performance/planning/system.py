"""What is simulated: the work of one host, how many hosts there are, and what joins them.

Every host has the same environments, actor threads and devices, so a job of N hosts has N times the environments of one
(weak scaling); only the speed of a host's cores may differ.
"""

from collections.abc import Mapping
import dataclasses
import math
from typing import Any, Self

from podrl.config.config import check
from podrl.performance.planning.distributions import Durations
from podrl.performance.planning.reduction import SMALL_SUMS


@dataclasses.dataclass(frozen=True, kw_only=True)
class HostWork:
    """Something that a host does again and again.

    Attributes:
        seconds: that it takes with nothing else on the host.
        cores: of the host that it keeps busy meanwhile, on average; 0 for what an accelerator or a wire does.
    """

    seconds: Durations
    cores: float = 0.0

    def __post_init__(self) -> None:
        """Checks the range."""
        check(self.cores >= 0, f"Found work that keeps {self.cores:g} cores busy; expected 0 or more.")

    @classmethod
    def constant(cls, seconds: float, cores: float = 0.0) -> Self:
        """Takes always the same time."""
        return cls(seconds=Durations.constant(seconds), cores=cores)

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Self:
        """What `to_json` made."""
        return cls(seconds=Durations.from_json(found["seconds"]), cores=float(found["cores"]))

    def to_json(self) -> dict[str, Any]:
        """For a file."""
        return {"seconds": self.seconds.to_json(), "cores": self.cores}

    def scaled(self, factor: float) -> "HostWork":
        """The same, taking so many times as long."""
        return dataclasses.replace(self, seconds=self.seconds.scaled(factor))


NOTHING = HostWork.constant(0.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class HostLoad:
    """What one host does, and how often, for an update.

    Attributes:
        threads: actor threads.
        pools: environment pools that each of them takes turns with.
        envs_per_pool: environments in a pool.
        unroll_length: steps in a rollout.
        env: one step of one pool, from its actions to its timestep.
        act: one turn of an actor thread, from a pool's timestep to its actions on the host.
        finish: closes the rollout of one pool.
        transfer: of a thread's rollouts to the learner's devices; the thread does not wait for it.
        update: the host's share of an update, without waiting for other hosts.
        publish: from an update's end until its parameters are with the actors; the next update does not wait for it.
        open: opens a thread's pools and resets them, at boundaries.
        save: keeps the main thread from the next update, at boundaries after the first.
        shares_device: whether acting and learning queue for one device, so that nobody acts during an update, the wait
            for other hosts in it included: one accelerator does both.
    """

    threads: int
    pools: int
    envs_per_pool: int
    unroll_length: int
    env: HostWork
    act: HostWork
    update: HostWork
    finish: HostWork = NOTHING
    transfer: HostWork = NOTHING
    publish: HostWork = NOTHING
    open: HostWork = NOTHING
    save: HostWork = NOTHING
    shares_device: bool = False

    def __post_init__(self) -> None:
        """Checks ranges."""
        for name in ("threads", "pools", "envs_per_pool", "unroll_length"):
            check(getattr(self, name) >= 1, f"A host with {name}={getattr(self, name)} does nothing; use at least 1.")

    @property
    def env_steps_per_update(self) -> int:
        """That the host makes for one update."""
        return self.threads * self.pools * self.envs_per_pool * self.unroll_length

    @property
    def most_cores(self) -> float:
        """That can be busy at the same time."""
        acting = max(self.act.cores, self.finish.cores, self.open.cores)
        learning = max(self.update.cores, self.save.cores) + self.publish.cores
        return self.threads * (acting + self.pools * self.env.cores) + learning

    def slowed(self, factor: float) -> "HostLoad":
        """A host whose cores are slower; what accelerators and wires do takes as long as before."""
        if factor == 1:
            return self
        works = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        slow: dict[str, Any] = {
            name: work.scaled(factor) for name, work in works.items() if isinstance(work, HostWork) and work.cores > 0
        }
        return dataclasses.replace(self, **slow)

    def without_waits(self) -> "HostLoad":
        """The same host, if its work was measured where it waited for cores: all that it does takes its core time."""
        works = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        own: dict[str, Any] = {
            name: HostWork(seconds=work.seconds.scaled(work.cores), cores=1.0)
            for name, work in works.items()
            if isinstance(work, HostWork) and 0 < work.cores < 1
        }
        return dataclasses.replace(self, **own)

    def with_pools(self, envs_per_pool: int, threads_ratio: float = 1.0) -> "HostLoad":
        """The same host with other pools; a scaling law, where nothing was measured.

        A pool's typical step takes time in proportion to environments over C++ threads; what a late environment adds to
        it stays as it was, and there are as many more to be late. Acting, updates and transfers take time in proportion
        to environments.

        Args:
            envs_per_pool: environments in each pool.
            threads_ratio: C++ threads of each pool, as a multiple of those now.
        """
        ratio = envs_per_pool / self.envs_per_pool
        in_proportion = {name: getattr(self, name).scaled(ratio) for name in ("act", "finish", "update", "transfer")}
        env = HostWork(
            seconds=self.env.seconds.stretched(ratio / threads_ratio, largest_of=ratio),
            cores=self.env.cores * threads_ratio,
        )
        return dataclasses.replace(self, envs_per_pool=envs_per_pool, env=env, **in_proportion)

    def with_unroll_length(self, unroll_length: int) -> "HostLoad":
        """The same host with other unrolls; assumes that updates and transfers take time in proportion."""
        ratio = unroll_length / self.unroll_length
        in_proportion = {name: getattr(self, name).scaled(ratio) for name in ("update", "transfer")}
        return dataclasses.replace(self, unroll_length=unroll_length, **in_proportion)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Interconnect:
    """What the sums over all hosts take that an optimizer step needs.

    With N hosts one takes `2 ceil(log2 N) latency + 2 (N - 1) / N * bytes / bandwidth`: halving and doubling, whose
    messages are few and which moves no more than it must.

    Source: Thakur et al. 2005, Optimization of Collective Communication Operations in MPICH, IJHPCA 19(1), section 4.5
    (Rabenseifner's algorithm), without the cost of adding.

    Attributes:
        latency_s: of one message.
        bytes_per_second: of one host, one way.
        constant_s: what they take together on top of that, between any number of hosts above one.
        small_sums: sums of a single number beside that of the gradients.
    """

    latency_s: float = 0.0
    bytes_per_second: float = math.inf
    constant_s: float = 0.0
    small_sums: int = SMALL_SUMS

    def __post_init__(self) -> None:
        """Checks ranges."""
        check(
            min(self.latency_s, self.constant_s) >= 0 and self.bytes_per_second > 0,
            f"An interconnect of {self.latency_s:g} s, {self.bytes_per_second:g} bytes/s and {self.constant_s:g} s; "
            "expected times of 0 or more and a positive bandwidth.",
        )

    def allreduce_s(self, hosts: int, size_bytes: float) -> float:
        """Seconds from the last host's arrival until all have the sums."""
        if hosts == 1:
            return 0.0
        rounds = 2 * (hosts - 1).bit_length() * (1 + self.small_sums)
        moved_bytes = 2 * (hosts - 1) / hosts * size_bytes
        return self.constant_s + rounds * self.latency_s + moved_bytes / self.bytes_per_second


@dataclasses.dataclass(frozen=True, kw_only=True)
class System:
    """A whole job.

    Attributes:
        host: what each host does.
        hosts: how many there are.
        cores: of each machine; infinite if they never run short.
        hosts_per_machine: neighbours that share the cores of one machine: processes on one host, as a real run has
            them where it was started several times there.
        slow: factors by which the cores of some hosts are slower, by host.
        max_lag: updates that the acting parameters are behind, away from boundaries; 0 is synchronous.
        exact: whether it is always that, or at most (`determinism='free'`).
        boundary_every: updates between boundaries, at which environments open anew; 0 for none but the start.
        reductions: all-reduces in an update, one for each optimizer step.
        allreduce_s: seconds that each takes from the last host's arrival, small sums beside it included, with nothing
            else on the hosts.
        allreduce_core_s: seconds of these that it keeps a core of every host busy.
    """

    host: HostLoad
    hosts: int = 1
    cores: float = math.inf
    hosts_per_machine: int = 1
    slow: Mapping[int, float] = dataclasses.field(default_factory=dict)
    max_lag: int = 1
    exact: bool = True
    boundary_every: int = 0
    reductions: int = 1
    allreduce_s: float = 0.0
    allreduce_core_s: float = 0.0

    def __post_init__(self) -> None:
        """Checks ranges."""
        for name, least in (("hosts", 1), ("hosts_per_machine", 1), ("max_lag", 0), ("reductions", 1)):
            check(getattr(self, name) >= least, f"A job with {name}={getattr(self, name)}; use at least {least}.")
        check(self.cores > 0, f"A machine of {self.cores:g} cores; expected a positive number.")
        check(
            0 <= self.allreduce_core_s <= self.allreduce_s,
            f"An all-reduce of {self.allreduce_s:g} s, {self.allreduce_core_s:g} s of them on a core; expected 0 or "
            "more, and no more on a core than in all.",
        )
        check(self.boundary_every >= 0, f"Boundaries every {self.boundary_every} updates; expected 0 or more.")
        for host, factor in self.slow.items():
            check(
                0 <= host < self.hosts and factor > 0,
                f"Host {host} slower by {factor:g}: expected one of the {self.hosts} hosts, from 0, and a positive "
                "factor.",
            )
